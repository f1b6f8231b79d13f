package sallyport_test

// agentMutations are of agents, their connections and their accounts: items 19 to
// 21, 24, 25 and 35.
func agentMutations() []mutation {
	return []mutation{
		one("19", "internal/enroll/jointoken.go", "if c.Generation > 0 && !t.Reset &&", "if c.Generation > 100 && !t.Reset &&", "./internal/enroll", "TestItem19StolenJoinToken"),
		one("19", "internal/tunnel/hub.go", "	if floor <= c.floor {", "	if floor >= 0 {", tunnel, "TestItem19NewestGenerationWins"),
		{"20", []edit{ // any certificate will do, whoever signed it
			{"internal/enroll/certificate.go", "ClientAuth: tls.RequireAndVerifyClientCert,", "ClientAuth: tls.RequireAnyClientCert,"},
			{"internal/enroll/certificate.go", "	if err != nil {\n		return Identity{}, fmt.Errorf(\"agent certificate", "	if err != nil && leaf == nil {\n		return Identity{}, fmt.Errorf(\"agent certificate"},
			{"internal/enroll/certificate.go", "	id.CAHash = keyHash(chains[0][len(chains[0])-1])\n", "	_ = chains\n"},
		}, "./internal/enroll", "TestItem20AgentRefused"},
		{"20", []edit{ // the hub believes what the agent says in its answer to the heartbeat
			{"internal/tunnel/link.go", "	leave := sync.OnceFunc(func() { close(l.leaving) })\n", "	leave := sync.OnceFunc(func() { close(l.leaving) })\n	if id := resp.Header.Get(\"Sallyport-Cluster-Uid\"); id != \"\" {\n		l.peer.ClusterUID = id\n	}\n"},
		}, tunnel, "TestItem20OnlyTheCertificateSaysWho"},
		{"20", []edit{ // any certificate will do, whoever signed it
			{"internal/enroll/certificate.go", "	if err != nil {\n		return Identity{}, fmt.Errorf(\"agent certificate", "	if err != nil && leaf == nil {\n		return Identity{}, fmt.Errorf(\"agent certificate"},
			{"internal/enroll/certificate.go", "	id.CAHash = keyHash(chains[0][len(chains[0])-1])\n", "	_ = chains\n"},
		}, "./internal/enroll", "TestIssueAndPeer"},
		one("20", "internal/enroll/certificate.go", "agentLife   = 24 * time.Hour", "agentLife   = 48 * time.Hour", "./internal/enroll", "TestIssueAndPeer"),
		one("21", "internal/enroll/client.go", "if !slices.Contains(hashes, keyHash(ca)) {", "if hashes == nil && slices.Contains(hashes, keyHash(ca)) {", "./internal/enroll", "TestItem21ClientKnowsItsGateway"),
		one("21", "internal/enroll/replace.go", "	c.learned = slices.Clone(hashes)\n", "	c.learned = append(slices.Clone(before), hashes...)\n", "./internal/enroll", "TestTrustDropsTheOld"),
		one("21", "internal/enroll/replace.go", "	a.cas = slices.Clone(a.cas[1:])\n", "", "./internal/enroll", "TestReplaceCA"),
		one("21", "internal/enroll/replace.go", "strings.EqualFold(serverName, pinName(c.hash))", "strings.EqualFold(serverName, c.hash)", "./internal/enroll", "TestReplaceCA"),
		one("24", "internal/rbac/manifest.yaml.tmpl", "^impersonate-on:user-info:[a-z]+$", "^impersonate", "./internal/rbac", "TestItem24ConstrainedPolicy"),
		one("24", "internal/rbac/impersonation.go", `		return "impersonate:user-info"`, `		return "impersonate"`, "./internal/rbac", "TestItem24ConstrainedImpersonation"),
		one("25", "internal/rbac/manifest.go", `for _, resource := range []string{"secrets", "nodes/proxy"} {`, `for _, resource := range []string{"nodes/proxy"} {`, "./internal/rbac", "TestItem25ManifestOptions"),
		one("35", "internal/tunnel/link.go", "if silent.tick(limit) || echoed != nil && waiting >= limit {", "if silent.tick(limit) && l.began.IsZero() || echoed != nil && waiting >= limit {", tunnel, "TestItem35StoppedAgentIsNoticed"),
		one("35", "internal/tunnel/link.go", "if silent.tick(limit) || echoed != nil && waiting >= limit {", "if silent.tick(limit) && l.began.IsZero() || echoed != nil && waiting >= limit {", tunnel, "TestItem35BlackholeIsNoticedByBothEndsAndReplaced"),
		one("35", "internal/tunnel/conn.go", "if silent.tick(limit) || admitted != nil && waiting >= limit {", "if silent.tick(limit) && c.began.IsZero() || admitted != nil && waiting >= limit {", tunnel, "TestItem35BlackholeIsNoticedByBothEndsAndReplaced"),
	}
}
