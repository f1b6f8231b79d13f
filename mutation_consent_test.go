package sallyport_test

// consentMutations are of who is believed, and of what was consented: items 14 to
// 18, 26 and 27, and the clock that says when it ends (decision 0006).
func consentMutations() []mutation {
	return []mutation{
		one("0006", "internal/clock/clock.go", "latest(wall(now), c.passed(now))", "wall(now)", "./internal/clock", "TestSetClock"),
		one("0006", "internal/clock/clock.go", "return latest(wall(c.begun.Add(now.Sub(c.begun))), c.floor)", "return wall(c.begun.Add(now.Sub(c.begun)))", "./internal/clock", "TestRestart"),
		one("14", "internal/authenticate/token.go", `[]string{"b64", "crit", "jku", "jwk", "x5c", "x5u"}`, `[]string{"crit"}`, authenticate, "TestItem14Traps"),
		one("14", "internal/authenticate/token.go", "if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: maxDepth}); err != nil {", "if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: maxDepth}); err != nil && len(raw) == 0 {", authenticate, "TestItem14Traps"),
		one("14", claims, "case !hasExp || !hasIat:", "case !hasExp && !hasIat:", authenticate, "TestItem14Traps"),
		one("14", claims, "if !slices.Contains(v.audiences, aud) {", "if !slices.Contains(v.audiences, aud) && aud == \"\" {", authenticate, "FuzzItem14Token"),
		one("15", "access/resourceid.go", `return id.text != "" && strings.EqualFold(id.text, other.text)`, `return id.text != "" && strings.HasPrefix(strings.ToLower(id.text), strings.ToLower(other.text))`, "./access", "FuzzItem15ResourceID"),
		one("15", claims, "id, err := access.ParseResourceID(text)", `id, err := access.ParseResourceID(strings.TrimRight(text, "/ "))`, authenticate, "TestItem15LookAlikes"),
		one("16", claims, "if !strings.EqualFold(tid, issuer.TenantID) {", "if tid == \"\" {", authenticate, "TestItem16TwoIssuers"),
		one("17", claims, "case exp.Sub(iat) > maxLifetime:", "case exp.Sub(iat) > 1000*maxLifetime:", authenticate, "TestItem17LifetimeIsCapped"),
		one("18", "internal/authenticate/keys.go", "	askEvery = 5 * time.Minute\n", "	askEvery = 0 * time.Minute\n", authenticate, "TestItem18UnknownKidStorm"),
		one("18", "internal/authenticate/keys.go", "fetchTimeout    = 5 * time.Second", "fetchTimeout    = time.Minute", authenticate, "TestItem18SlowIssuer"),
		one("18", "internal/authenticate/fetch.go", "if len(raw) > maxJWKS {", "if len(raw) > 1<<30 {", authenticate, "TestItem18FetchURL"),
		one("18", "internal/authenticate/fetch.go", `case r.URL.Scheme != "https" || r.URL.Host != via[0].URL.Host:`, `case r.URL.Scheme == "":`, authenticate, "TestItem18FetchURL"),
		one("18", "internal/authenticate/keys.go", "		ctx = context.WithoutCancel(ctx)\n", "", authenticate, "TestItem18SingleFlight"),
		one("18", "internal/authenticate/keys.go", "if running := s.flight; running != nil {", "if running := s.flight; running != nil && !asked {", authenticate, "TestItem18SingleFlight"),
		one("18", "internal/authenticate/keys.go", "keysServe    = 24 * time.Hour", "keysServe    = 1000 * time.Hour", authenticate, "TestItem18Outage"),
		one("26", "internal/authorize/update.go", "			x.removeLocked(key)\n			revoked = append(revoked, revocation{old.UID, \"binding deleted\"})", "			revoked = append(revoked, revocation{old.UID, \"binding deleted\"})", "./internal/authorize", "TestItem26NoGrantSurvivesItsDeletion"),
		one("26", "internal/gateway/gateway.go", "if err := g.cfg.Authorizer.Holds(adm.grant); err != nil {", "if err := g.cfg.Authorizer.Holds(adm.grant); err != nil && rec.ID == \"\" {", gateway, "TestItem26WithdrawnBetween"),
		one("26", "internal/gateway/gateway.go", "	ctx, release := g.cfg.Live.Register(r.Context(), adm.grant.BindingUID)\n	defer release()\n", "	ctx := r.Context()\n", gateway, "TestItem26RevokedBeforeTheAnswer"),
		one("27", "internal/controlplane/rolebindings.go", "	return q.requireLinked(ctx, action, want.source)\n", "	_ = action\n	return nil\n", "./internal/controlplane", "TestItem27BindingNamesForeignSource"),
		one("27", "internal/controlplane/rolebindings.go", "	if itself {\n", "	if itself && want.roles == nil {\n", "./internal/controlplane", "TestItem27SourceDoesNotConsent"),
		one("27", "internal/controlplane/policies.go", "if q.actsBy(b.Value) && (", "if q.caller.Is(b.Value.ID) && (", "./internal/controlplane", "TestItem27SourceDoesNotConsent"),
		one("27", "internal/controlplane/rolebindings.go", "c.store.Clusters.Updating(cluster, cluster.Value)", "c.store.Clusters.Unchanged(cluster)", "./internal/controlplane", "TestItem27ConsentDuringUnlock"),
		one("27", "internal/authorize/rights.go", `	"Microsoft.Authorization/*/write",`, "", "./internal/controlplane", "TestItem27SourceDoesNotConsent"),
		one("27", "internal/controlplane/routes.go", `{post, agent + "/joinToken", owner, c.postJoinToken}`, `{post, agent + "/joinToken", listed, c.postJoinToken}`, "./internal/controlplane", "TestEveryRoute"),
		one("27", "internal/controlplane/identities.go", "q.requireLinked(ctx, assignAction, id); err != nil", "q.requireLinked(ctx, assignAction, id); err != nil && isUsed", "./internal/controlplane", "TestRightsAreNotWidened"),
		one("27", "internal/controlplane/routes.go", `{put, cluster + policy, owner, c.putPolicy}`, `{put, cluster + policy, signedIn, c.putPolicy}`, "./internal/controlplane", "TestHostileOperator"),
		one("27", "internal/controlplane/rolebindings.go", "	return q.requireLinked(ctx, action, want.source)\n", "	_ = action\n	return nil\n", "./internal/controlplane", "TestHostileOperatorReaches"),
		one("27", "internal/controlplane/request.go", "!q.rights.May(q.action(), scope) {\n", "!q.rights.May(q.action(), scope) {\n			if _, unknown := q.c.store.Clusters.Get(ctx, scope.Key()); unknown != nil {\n				return unknown\n			}\n", "./internal/controlplane", "TestHostileOperatorLearnsNothing"),
	}
}
