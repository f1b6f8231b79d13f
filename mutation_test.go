package sallyport_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var mutate = flag.Bool("mutate", false, "take each defence out in turn, and see its test fail (minutes)")

// mutation takes one defence out: in each file, old text becomes new, and then
// the test must fail. Whatever else the package has stays as it is.
type mutation struct {
	item  string // of the security checklist, or the decision that says what is defended
	edits []edit
	pkg   string
	test  string
}

type edit struct{ file, old, new string }

// mutations are one or more of each item that is held by our own code. They are
// applied by the go command's -overlay, so the tree is never touched.
func mutations() []mutation {
	one := func(item, file, old, new, pkg, test string) mutation {
		return mutation{item, []edit{{file, old, new}}, pkg, test}
	}
	const (
		gateway, impersonate, tunnel, authenticate = "./internal/gateway", "./internal/impersonate", "./internal/tunnel", "./internal/authenticate"
		forward, identity, proxy, claims           = "internal/gateway/forward.go", "internal/impersonate/identity.go", "internal/impersonate/proxy.go", "internal/authenticate/claims.go"
	)
	return []mutation{
		one("01", "internal/gateway/gateway.go", `name := tunnel.SpoofsIdentity(r.Header); name != ""`, `name := tunnel.SpoofsIdentity(r.Header); name == "-"`, gateway, "TestItem01ImpersonationIsRefused"),
		one("01", proxy, "p.headers.Request(pr.Out.Header, kindOf(pr.In))", "", impersonate, "TestItem01NothingSuppliedSurvives"),
		one("02", forward, "g.headers.Request(out.Header, adm.kind())", "", gateway, "TestItem02SpoofedHeadersStop"),
		{"03", []edit{ // the claim is stamped before ReverseProxy deletes what Connection lists
			{forward, "g.headers.Request(out.Header, adm.kind())", `kept := out.Header.Clone()
		g.headers.Request(out.Header, adm.kind())
		for name, values := range kept {
			if tunnel.IsPrivate(name) {
				out.Header[name] = values
			}
		}`},
			{forward, "		tunnel.StampClaim(out.Header, adm.grant, requestID)\n	}", "	}"},
			{forward, "	proxy.ServeHTTP(w, r)", "	tunnel.StampClaim(r.Header, adm.grant, requestID)\n	proxy.ServeHTTP(w, r)"},
		}, gateway, "TestItem03ConnectionLists"},
		{"03", []edit{ // the identity is set before ReverseProxy deletes what Connection lists
			{identity, "out, err := identify(r, t.token)\n", "out, err := r, error(nil)\n"},
			{proxy, "	p.reverse.ServeHTTP(w, r)\n", "	if r, err = identify(r, p.cfg.Token); err != nil {\n		tunnel.Refuse(w, err)\n		return\n	}\n	p.reverse.ServeHTTP(w, r)\n"},
			{proxy, "	p.headers.Request(pr.Out.Header, kindOf(pr.In))\n", `	kept := pr.Out.Header.Clone()
	p.headers.Request(pr.Out.Header, kindOf(pr.In))
	for name, values := range kept {
		if strings.HasPrefix(name, "Impersonate-") && name != "Impersonate-Uid" || name == "Authorization" || name == "Audit-Id" {
			pr.Out.Header[name] = values
		}
	}
`},
		}, impersonate, "TestItem03NamedInConnection"},
		one("04", identity, "if !ok || id == (identity{}) {", "if !ok && id != (identity{}) {", impersonate, "TestItem04NoIdentityNoCall"),
		one("04", identity, "	if err != nil {\n		return nil, fmt.Errorf(\"%w: %w\", errNoToken, err)\n	}\n", "	_ = err\n", impersonate, "TestItem04RefusalsMakeNoCall"),
		one("05", identity, `h.Set(extraHeader(access.ExtraSource), id.source)`, "", impersonate, "TestItem05IdentityIsWhole"),
		one("06", "internal/tunnel/claim.go", "if err := access.CheckBindingName(c.Binding); err != nil {", "if err := access.CheckBindingName(c.Binding); err != nil && c.Binding == \"\" {", tunnel, "TestItem06ReadClaimRefuses"),
		one("06", "internal/tunnel/claim.go", "if err := access.CheckBindingName(c.Binding); err != nil {", "if err := access.CheckBindingName(c.Binding); err != nil && c.Binding == \"\" {", impersonate, "FuzzItem06Names"),
		one("09", "internal/gateway/gateway.go", "adm.upgrade && !adm.info.MayUpgrade()", "adm.upgrade && false", gateway, "TestItem09ArbitraryUpgradesAreRefused"),
		one("09", "internal/tunnel/upgrade.go", `return invalid("only SPDY/3.1 and websocket are known")`, "proto = asks[0]", tunnel, "TestItem09UpgradeRequest"),
		one("09", "internal/requestinfo/requestinfo.go", `i.Resource != "pods" || !strings.HasSuffix`, `i.Resource == "" || !strings.HasSuffix`, "./internal/requestinfo", "TestItem09MayUpgrade"),
		one("10", "internal/requestinfo/requestinfo.go", `name == "." || name == ".." || `, `name == "-" || `, "./internal/requestinfo", "TestItem10ParseRefuses"),
		one("10", "internal/requestinfo/requestinfo.go", `name == "." || name == ".." || `, `name == "-" || `, gateway, "TestItem10TargetRefuses"),
		one("11", "internal/requestinfo/requestinfo.go", `if info.Verb == "list" { // the query`, `if info.Verb == "-" { // the query`, "./internal/requestinfo", "TestItem11EverySpelling"),
		one("11", "internal/requestinfo/requestinfo.go", `if info.Verb == "list" { // the query`, `if info.Verb == "-" { // the query`, gateway, "TestItem11OneDecisionForEverySpelling"),
		one("12", proxy, "	pr.Out.Host = p.cfg.Upstream.Host\n", "", impersonate, "TestItem12DialsOneAddress"),
		one("14", "internal/authenticate/token.go", `[]string{"b64", "crit", "jku", "jwk", "x5c", "x5u"}`, `[]string{"crit"}`, authenticate, "TestItem14Traps"),
		one("14", "internal/authenticate/token.go", "if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: maxDepth}); err != nil {", "if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: maxDepth}); err != nil && len(raw) == 0 {", authenticate, "TestItem14Traps"),
		one("14", claims, "case !hasExp || !hasIat:", "case !hasExp && !hasIat:", authenticate, "TestItem14Traps"),
		one("14", claims, "if !slices.Contains(v.audiences, aud) {", "if !slices.Contains(v.audiences, aud) && aud == \"\" {", authenticate, "FuzzItem14Token"),
		one("15", "access/resourceid.go", `return id.text != "" && strings.EqualFold(id.text, other.text)`, `return id.text != "" && strings.HasPrefix(strings.ToLower(id.text), strings.ToLower(other.text))`, "./access", "FuzzItem15ResourceID"),
		one("15", claims, "id, err := access.ParseResourceID(text)", `id, err := access.ParseResourceID(strings.TrimRight(text, "/ "))`, authenticate, "TestItem15LookAlikes"),
		one("16", claims, "if !strings.EqualFold(tid, issuer.TenantID) {", "if tid == \"\" {", authenticate, "TestItem16TwoIssuers"),
		one("17", claims, "case exp.Sub(iat) > maxLifetime:", "case exp.Sub(iat) > 1000*maxLifetime:", authenticate, "TestItem17LifetimeIsCapped"),
		one("19", "internal/enroll/jointoken.go", "if c.Generation > 0 && !t.Reset &&", "if c.Generation > 100 && !t.Reset &&", "./internal/enroll", "TestItem19StolenJoinToken"),
		one("19", "internal/tunnel/hub.go", "	if floor <= c.floor {", "	if floor >= 0 {", tunnel, "TestItem19NewestGenerationWins"),
		{"20", []edit{ // any certificate will do, whoever signed it
			{"internal/enroll/certificate.go", "ClientAuth: tls.RequireAndVerifyClientCert,", "ClientAuth: tls.RequireAnyClientCert,"},
			{"internal/enroll/certificate.go", "	if err != nil {\n		return Identity{}, fmt.Errorf(\"agent certificate", "	if err != nil && leaf == nil {\n		return Identity{}, fmt.Errorf(\"agent certificate"},
			{"internal/enroll/certificate.go", "	id.CAHash = keyHash(chains[0][len(chains[0])-1])\n", "	_ = chains\n"},
		}, "./internal/enroll", "TestItem20AgentRefused"},
		one("21", "internal/enroll/client.go", "if !slices.Contains(hashes, keyHash(ca)) {", "if hashes == nil && slices.Contains(hashes, keyHash(ca)) {", "./internal/enroll", "TestItem21ClientKnowsItsGateway"),
		one("23", proxy, "if err := p.cfg.Known(claim); err != nil {", "if err := p.cfg.Known(claim); err != nil && claim.Binding == \"\" {", impersonate, "TestItem23ForgedClaimsAreRefused"),
		one("24", "internal/rbac/manifest.yaml.tmpl", "^impersonate-on:user-info:[a-z]+$", "^impersonate", "./internal/rbac", "TestItem24ConstrainedPolicy"),
		one("24", "internal/rbac/impersonation.go", `		return "impersonate:user-info"`, `		return "impersonate"`, "./internal/rbac", "TestItem24ConstrainedImpersonation"),
		one("26", "internal/authorize/update.go", "			x.removeLocked(key)\n			revoked = append(revoked, revocation{old.UID, \"binding deleted\"})", "			revoked = append(revoked, revocation{old.UID, \"binding deleted\"})", "./internal/authorize", "TestItem26NoGrantSurvivesItsDeletion"),
		one("26", "internal/gateway/gateway.go", "if err := g.cfg.Authorizer.Holds(adm.grant); err != nil {", "if err := g.cfg.Authorizer.Holds(adm.grant); err != nil && rec.ID == \"\" {", gateway, "TestItem26WithdrawnBetween"),
		one("26", "internal/gateway/gateway.go", "	ctx, release := g.cfg.Live.Register(r.Context(), adm.grant.BindingUID)\n	defer release()\n", "	ctx := r.Context()\n", gateway, "TestItem26RevokedBeforeTheAnswer"),
		one("27", "internal/controlplane/rolebindings.go", "	return q.requireLinked(ctx, action, want.source)\n", "	_ = action\n	return nil\n", "./internal/controlplane", "TestItem27BindingNamesForeignSource"),
		one("27", "internal/controlplane/rolebindings.go", "	if itself {\n", "	if itself && want.roles == nil {\n", "./internal/controlplane", "TestItem27SourceDoesNotConsent"),
		one("27", "internal/controlplane/policies.go", "if q.actsBy(b.Value) && (", "if q.caller.Is(b.Value.ID) && (", "./internal/controlplane", "TestItem27SourceDoesNotConsent"),
		one("27", "internal/authorize/rights.go", `	"Microsoft.Authorization/*/write",`, "", "./internal/controlplane", "TestItem27SourceDoesNotConsent"),
		one("27", "internal/controlplane/routes.go", `{post, agent + "/joinToken", owner, c.postJoinToken}`, `{post, agent + "/joinToken", listed, c.postJoinToken}`, "./internal/controlplane", "TestEveryRoute"),
		one("27", "internal/controlplane/identities.go", "q.requireLinked(ctx, assignAction, id); err != nil", "q.requireLinked(ctx, assignAction, id); err != nil && isUsed", "./internal/controlplane", "TestRightsAreNotWidened"),
		one("29", "internal/gateway/gateway.go", "if preflight(r) {", "if preflight(r) && rec.ID == \"\" {", gateway, "TestItem29NoCookiesNoCORS"),
		one("39", "internal/controlplane/request.go", `"path", access.Clip(q.http.URL.EscapedPath(), 512)`, `"path", access.Clip(q.http.URL.String(), 512)`, "./internal/controlplane", "TestItem39NoSecretIsLogged"),
		{"28", []edit{ // either end alone is enough
			{proxy, "	r = r.WithContext(tunnel.BoundInterim(r.Context()))\n", ""},
			{forward, "	r = r.WithContext(tunnel.BoundInterim(r.Context()))\n", ""},
		}, gateway, "TestItem28HostileCluster"},
		one("30", "internal/tunnel/link.go", "			WriteByteTimeout:              writeTimeout,\n", "", tunnel, "TestItem30AgentThatReadsNothing"),
		one("32", "internal/gateway/gateway.go", "	defer cutWrites(ctx, w)()\n", "", gateway, "TestItem32StalledClientIsCut"),
		one("38", "internal/gateway/limits.go", "if wait := r.DelayFrom(now); wait > 0 {", "if wait := r.DelayFrom(now); wait > time.Hour {", gateway, "TestItem38TooMany"),
		one("38", "internal/gateway/limits.go", "most > 0 && s.streams >= most", "most > 0 && s.streams > 1<<30", gateway, "TestItem38TooMany"),
		one("38", "internal/gateway/gateway.go", "paced{adm.to, adm.lease}", "paced{adm.to, lease{}}", gateway, "TestItem38BytesArePaced"),
		one("21", "internal/enroll/replace.go", "	c.learned = slices.Clone(hashes)\n", "	c.learned = append(slices.Clone(before), hashes...)\n", "./internal/enroll", "TestTrustDropsTheOld"),
		one("21", "internal/enroll/replace.go", "	a.cas = slices.Clone(a.cas[1:])\n", "", "./internal/enroll", "TestReplaceCA"),
		one("21", "internal/enroll/replace.go", "strings.EqualFold(serverName, pinName(c.hash))", "strings.EqualFold(serverName, c.hash)", "./internal/enroll", "TestReplaceCA"),
		one("39", "internal/store/seal.go", "	return z.ring.Seal(value, []byte(path))\n", "	return value\n", "./internal/store", "TestSealed"),
		one("39", "internal/store/seal.go", "	return z.ring.Unseal(kv.Value, kv.Key)\n", "	if value, err := z.ring.Unseal(kv.Value, kv.Key); err != keyring.ErrPlain {\n		return value, err\n	}\n	return kv.Value, nil\n", "./internal/store", "TestSealedForgery"),
		one("39", "internal/store/seal.go", "		if records.Count > 0 {", "		if records.Count < 0 {", "./internal/store", "TestSealedRefuses"),
		one("39", "internal/store/seal.go", "marker == nil || under != ring.Keys()[0].ID || ring.AdmitsPlain() {", "marker == nil {", "./internal/store", "TestSealedInterrupted"),
		one("39", "internal/store/seal.go", "	records, err = s.reseal(ctx)\n	return id", "	records = 100\n	return id", "./internal/store", "TestRotateKey"),
		{"39", []edit{ // a value opens under any name
			{"internal/keyring/keyring.go", "value, slices.Concat(out[:head], name))", "value, out[:head])"},
			{"internal/keyring/keyring.go", "rest, slices.Concat(sealed[:head], name))", "rest, sealed[:head])"},
		}, "./internal/keyring", "TestUnsealRefuses"},
		one("39", "internal/idp/rotation.go", "	born := now.Add(lead)\n", "	born := now\n", "./internal/idp", "TestRotateOverlap"),
		one("39", "internal/idp/rotation.go", "KeyOverlap = 26 * time.Hour", "KeyOverlap = 24 * time.Hour", "./internal/idp", "TestRotateOverlap"),
		one("40", "internal/gateway/gateway.go", "if recordErr := g.record(audit.Decision, rec, err); recordErr != nil {", "if recordErr := g.record(audit.Decision, rec, err); recordErr != nil && rec.ID == \"\" {", gateway, "TestItem40NotRecordedIsRefused"),
		one("40", "internal/tunnel/allow.go", `"Accept":              true,`, `"Accept":              true, "Audit-Id": true,`, gateway, "TestItem40ClientsAuditIDIsIgnored"),
		one("41", "cmd/sallyport/serverconfig.go", `MetricsListen:  "127.0.0.1:8445"`, `MetricsListen:  ":8445"`, "./cmd/sallyport", "TestItem41DefaultsAreLoopback"),
		one("0006", "internal/clock/clock.go", "latest(wall(now), c.passed(now))", "wall(now)", "./internal/clock", "TestSetClock"),
		one("0006", "internal/clock/clock.go", "return latest(wall(c.begun.Add(now.Sub(c.begun))), c.floor)", "return wall(c.begun.Add(now.Sub(c.begun)))", "./internal/clock", "TestRestart"),
		one("0013", "internal/forwardproxy/proxy.go", "if first && p.cfg.Refused != nil {", "if (first || host != \"\") && p.cfg.Refused != nil {", "./internal/forwardproxy", "TestConnect"),
		one("0013", "internal/forwardproxy/proxy.go", "context.AfterFunc(p.done, func() { child.Close(); upstream.Close() })", "context.AfterFunc(p.done, func() {})", "./internal/forwardproxy", "TestCloseEndsRelays"),
		one("0013", "internal/forwardproxy/metadata.go", "				r.Out.Header.Del(name)\n", "				_ = name\n", "./internal/forwardproxy", "TestMetadataIsAnsweredByWhoTheChildIs"),
		one("0013", "internal/hostcert/authority.go", "		PermittedDNSDomains:         Names(),\n", "", "./internal/hostcert", "TestCAIsConstrainedToTheHosts"),
		one("0013", "internal/hostcert/authority.go", "ExcludedIPRanges:            everyIP,", "ExcludedIPRanges:            everyIP[:0],", "./internal/hostcert", "TestCASpeaksForNoAddress"),
		one("0013", "internal/hostcert/authority.go", "if _, ok := PartOf(host); !ok {", "if _, ok := PartOf(host); !ok && host == \"-\" {", "./internal/hostcert", "TestEachHostHasItsCertificate"),
		one("0013", "internal/hostcert/authority.go", "a.cert.NotAfter.Sub(a.now()) >= authorityRenew", "a.cert.NotAfter.Sub(a.now()) >= 0", "./internal/hostcert", "TestCAIsKept"),
		one("0013", "internal/hostcert/authority.go", "leaf.Leaf.NotAfter.Sub(a.now()) >= leafRenew", "leaf.Leaf.NotAfter.Sub(a.now()) >= 0", "./internal/hostcert", "TestLeafIsRenewed"),
	}
}

// TestMutations holds each mutation to the code it is of; with -mutate it also
// applies it, and the test that is named must then fail.
func TestMutations(t *testing.T) {
	for _, m := range mutations() {
		t.Run(m.item+" "+m.test, func(t *testing.T) {
			mutated := map[string]string{}
			for _, e := range m.edits {
				text, ok := mutated[e.file]
				if !ok {
					b, err := os.ReadFile(e.file)
					if err != nil {
						t.Fatal(err)
					}
					text = string(b)
				}
				if n := strings.Count(text, e.old); n != 1 {
					t.Fatalf("%s has %q %d times; a mutation must name its place", e.file, e.old, n)
				}
				mutated[e.file] = strings.Replace(text, e.old, e.new, 1)
			}
			if *mutate {
				t.Parallel()
				mustFail(t, m, mutated)
			}
		})
	}
}

// mustFail runs the mutation's test on a tree in which those files have other
// texts.
func mustFail(t *testing.T, m mutation, mutated map[string]string) {
	dir, replace := t.TempDir(), map[string]string{}
	for file, text := range mutated {
		at := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		whole, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		replace[whole] = at
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "test", "-overlay", file, "-run", "^"+m.test+"$", m.pkg).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--- FAIL: "+m.test) {
		t.Errorf("without its defence, %s of %s did not fail: %v\n%s", m.test, m.pkg, err, out)
		return
	}
	t.Logf("%s", firstLines(string(out), 4))
}

func firstLines(text string, n int) string {
	lines := strings.SplitN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
