package sallyport_test

// requestMutations are of what a request and its answer pass through: items 1 to
// 13, 23, 28, 29, 36 and 37.
func requestMutations() []mutation {
	return []mutation{
		one("01", "internal/gateway/gateway.go", `name := tunnel.SpoofsIdentity(r.Header); name != ""`, `name := tunnel.SpoofsIdentity(r.Header); name == "-"`, gateway, "TestItem01ImpersonationIsRefused"),
		one("01", proxy, "p.headers.Request(out.Header, kindOf(r))", "", impersonate, "TestItem01NothingSuppliedSurvives"),
		one("02", forward, "g.headers.Request(out.Header, adm.kind())", "", gateway, "TestItem02SpoofedHeadersStop"),
		// What Connection lists is deleted when the claim, or the identity, is set.
		one("03", forward, "	tunnel.StampClaim(out.Header, adm.grant, requestID)\n", "	tunnel.StampClaim(out.Header, adm.grant, requestID)\n	out.Header[\"Connection\"] = r.Header[\"Connection\"]\n	tunnel.DropListed(out.Header)\n", gateway, "TestItem03ConnectionLists"),
		{"03", []edit{
			{proxy, "	p.headers.Request(out.Header, kindOf(r))\n", "	list := out.Header[\"Connection\"]\n	p.headers.Request(out.Header, kindOf(r))\n	out.Header[\"Connection\"] = list\n"},
			{identity, "	id.set(out.Header, bearer)\n", "	id.set(out.Header, bearer)\n	tunnel.DropListed(out.Header)\n"},
		}, impersonate, "TestItem03NamedInConnection"},
		one("04", identity, "if !ok || id == (identity{}) {", "if !ok && id != (identity{}) {", impersonate, "TestItem04NoIdentityNoCall"),
		one("04", identity, "	if err != nil {\n		return nil, fmt.Errorf(\"%w: %w\", errNoToken, err)\n	}\n", "	_ = err\n", impersonate, "TestItem04RefusalsMakeNoCall"),
		one("05", identity, `h.Set(extraHeader(access.ExtraSource), id.source)`, "", impersonate, "TestItem05IdentityIsWhole"),
		one("06", "internal/tunnel/claim.go", "if err := access.CheckBindingName(c.Binding); err != nil {", "if err := access.CheckBindingName(c.Binding); err != nil && c.Binding == \"\" {", tunnel, "TestItem06ReadClaimRefuses"),
		one("06", "internal/tunnel/claim.go", "if err := access.CheckBindingName(c.Binding); err != nil {", "if err := access.CheckBindingName(c.Binding); err != nil && c.Binding == \"\" {", impersonate, "FuzzItem06Names"),
		one("07", "internal/tunnel/upgrade.go", "		w.Header().Set(\"Connection\", \"close\")\n", "", tunnel, "TestItem07RefusedUpgradeIsNeverSpliced"),
		{"07", []edit{ // the agent takes any answer for an upgrade
			{"internal/tunnel/upgraded.go", "if resp.StatusCode != http.StatusSwitchingProtocols {", "if resp.StatusCode == 0 {"},
			{"internal/tunnel/upgraded.go", "if !strings.EqualFold(answered, proto) {", "if answered != \"\" && !strings.EqualFold(answered, proto) {"},
		}, tunnel, "TestItem07RefusedUpgradeIsNeverSpliced"},
		one("07", "internal/tunnel/upgraded.go", "	StripPrivate(resp.Header) // or the API server could claim an upgrade\n", "", tunnel, "TestItem07RefusedUpgradeIsNeverSpliced"),
		one("07", forward, "		w.Header().Set(\"Connection\", \"close\") // what came behind the request is not read (item 7)\n", "", gateway, "TestItem07AgentRefusesUpgrade"),
		one("08", forward, `return fmt.Errorf("%w: it redirects`, `_ = fmt.Errorf("%w: it redirects`, gateway, "TestItem08Redirects"),
		one("08", forward, "return requestinfo.CheckPath(path) == nil", `return requestinfo.CheckPath(path) == nil || strings.Contains(path, "..")`, gateway, "TestItem08Redirects"),
		one("08", forward, `return fmt.Errorf("%w: it redirects`, `_ = fmt.Errorf("%w: it redirects`, gateway, "TestItem08ApplicationRedirects"),
		one("08", forward, `return fmt.Errorf("%w: it redirects`, `_ = fmt.Errorf("%w: it redirects`, gateway, "TestItem08HostFormRedirects"),
		one("08", "internal/tunnel/upgrade.go", "if resp.StatusCode >= 300 && resp.StatusCode < 400 {", "if resp.StatusCode == 0 {", impersonate, "TestItem08Redirects"),
		one("08", identity, "resp, err := t.next.RoundTrip(out)", "out.RequestURI = \"\"\n	resp, err := (&http.Client{Transport: t.next}).Do(out)", impersonate, "TestItem08Redirects"),
		one("09", "internal/gateway/gateway.go", "adm.upgrade && !adm.info.MayUpgrade()", "adm.upgrade && false", gateway, "TestItem09ArbitraryUpgradesAreRefused"),
		one("09", "internal/tunnel/upgrade.go", `return invalid("only SPDY/3.1 and websocket are known")`, "proto = asks[0]", tunnel, "TestItem09UpgradeRequest"),
		one("09", "internal/requestinfo/requestinfo.go", `i.Resource != "pods" || !strings.HasSuffix`, `i.Resource == "" || !strings.HasSuffix`, "./internal/requestinfo", "TestItem09MayUpgrade"),
		one("10", "internal/requestinfo/requestinfo.go", `name == "." || name == ".." || `, `name == "-" || `, "./internal/requestinfo", "TestItem10ParseRefuses"),
		one("10", "internal/requestinfo/requestinfo.go", `name == "." || name == ".." || `, `name == "-" || `, gateway, "TestItem10TargetRefuses"),
		one("11", "internal/requestinfo/requestinfo.go", `if info.Verb == "list" && (query`, `if info.Verb == "-" && (query`, "./internal/requestinfo", "TestItem11EverySpelling"),
		one("11", "internal/requestinfo/requestinfo.go", `if info.Verb == "list" && (query`, `if info.Verb == "-" && (query`, gateway, "TestItem11OneDecisionForEverySpelling"),
		one("12", proxy, "out.Host, out.RequestURI, out.Close = p.cfg.Upstream.Host, \"\", false", "out.RequestURI, out.Close = \"\", false", impersonate, "TestItem12DialsOneAddress"),
		one("12", proxy, "	out.URL.Scheme, out.URL.Host = p.cfg.Upstream.Scheme, p.cfg.Upstream.Host\n", "	if r.URL.Host == \"\" {\n		out.URL.Scheme, out.URL.Host = p.cfg.Upstream.Scheme, p.cfg.Upstream.Host\n	}\n", impersonate, "TestItem12DialsOneAddress"),
		one("23", proxy, "if err := p.cfg.Known(claim); err != nil {", "if err := p.cfg.Known(claim); err != nil && claim.Binding == \"\" {", impersonate, "TestItem23ForgedClaimsAreRefused"),
		{"28", []edit{ // somebody looks at interim answers, and net/http then has no bound of them
			{"internal/tunnel/forward.go", "	\"net/http\"\n", "	\"net/http\"\n	\"net/http/httptrace\"\n	\"net/textproto\"\n"},
			{"internal/tunnel/forward.go", "	resp, err := rt.RoundTrip(out)\n", "	resp, err := rt.RoundTrip(out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil }})))\n"},
		}, gateway, "TestItem28HostileCluster"},
		one("29", "internal/gateway/gateway.go", "if preflight(r) {", "if preflight(r) && rec.ID == \"\" {", gateway, "TestItem29NoCookiesNoCORS"),
		one("36", "internal/gateway/gateway.go", `name := tunnel.SpoofsIdentity(r.Header); name != ""`, `name := tunnel.SpoofsIdentity(r.Header); name == "-"`, gateway, "TestItem36Smuggling"),
		one("36", "internal/tunnel/upgrade.go", "		w.Header().Set(\"Connection\", \"close\")\n", "", gateway, "TestItem36Smuggling"),
		one("36", "internal/tunnel/allow.go", "k.Application && !l.upgrade[name] && toApplication(name) {", "k.Application {", tunnel, "FuzzHeaders"),
		one("36", "internal/tunnel/allow.go", "k.Application && !l.upgraded[name] && fromApplication(name) {", "k.Application {", tunnel, "FuzzHeaders"),
		one("37", forward, "	out.Trailer = nil\n", "", gateway, "TestItem37TrailersExpectAndBodies"),
		one("37", proxy, "	out.Trailer = nil\n", "", impersonate, "TestItem37RequestTrailersStop"),
		one("37", "internal/tunnel/link.go", "		DisableCompression:     true, // bodies pass as they are; the gateway inflates none (checklist 37)\n", "", tunnel, "TestItem37CompressedBodyStaysCompressed"),
	}
}
