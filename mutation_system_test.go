package sallyport_test

// systemMutations are those whose tests run a whole system: a server, agents and
// a real kube-apiserver, which bin/devcluster is. The processes of such a test are
// its own binary, so the mutation is in each of them.
func systemMutations() []mutation {
	const cmd, system = "cmd/sallyport/", "./cmd/sallyport"
	return []mutation{
		one("0006", "internal/clock/clock.go", "latest(wall(now), c.passed(now))", "c.passed(now)", system, "TestChaosClock"),
		one("08", forward, `return fmt.Errorf("%w: it redirects`, `_ = fmt.Errorf("%w: it redirects`, system, "TestSystemApplications"),
		one("13", "internal/rbac/objects.go", "Rules: policyRules(role.Rules)}", "Rules: append(policyRules(role.Rules), rbacv1.PolicyRule{Verbs: []string{\"get\"}, APIGroups: []string{\"\"}, Resources: []string{\"services/proxy\"}})}", system, "TestSystemItem13ProxyNeedsTheRole"),
		one("13", "internal/gateway/gateway.go", "rec.APIGroup, rec.Resource, rec.Subresource = access.Clip(info.APIGroup, 256), access.Clip(info.Resource, 256), access.Clip(info.Subresource, 256)", "rec.APIGroup, rec.Resource = access.Clip(info.APIGroup, 256), access.Clip(info.Resource, 256)", system, "TestSystemItem13ProxyNeedsTheRole"),
		one("16", cmd+"directory.go", "item.Value.Identity.ObjectID != u.ObjectID {", "false {", system, "TestSystemUserAssignedIdentities"),
		one("0020", cmd+"admin_keys.go", "{s.arm, s.data, s.graphTokens}", "{s.arm, s.data}", system, "TestSystemKeys"),
		one("0020", cmd+"admin_keys.go", "	if err := s.keys.Withdraw(r.ID); err != nil {\n		return r, err\n	}\n	return r, s.refreshVerifiers(ctx)", "	return r, s.keys.Withdraw(r.ID)", system, "TestSystemKeys"),
		one("0020", cmd+"agentconns.go", "	s.control.Announce()\n	return hash, s.writeCA()\n", "	return hash, s.writeCA()\n", system, "TestSystemCAReplaced"),
		one("0020", cmd+"agentconns.go", "if len(hashes) == 2 && len(left) > 0 && !force {", "if len(hashes) == 2 && len(left) > 1000 && !force {", system, "TestSystemCAReplaced"),
		one("0021", cmd+"restore.go", "next.Policy.Locked, next.Policy.ETag = true, uuid.NewString()", "next.Policy.Locked, next.Policy.ETag = false, uuid.NewString()", system, "TestSystemBackup"),
		one("0021", cmd+"restore.go", "if !r.since.deleted[b.Value.UID] && !r.since.deleted[c.Value.UID] {", "if b.Value.UID != \"\" {", system, "TestSystemBackup"),
		one("0021", cmd+"restore.go", "	if !found {\n", "	if !found && path == \"\" {\n", system, "TestSystemBackup"),
		{"26", []edit{ // either end alone is enough
			{"internal/authorize/index.go", "age > x.cfg.MaxAge {", "age > 1000*x.cfg.MaxAge {"},
			{"internal/agent/known.go", "silence > maxSilence {", "silence > 1000*maxSilence {"},
		}, system, "TestChaosEtcd"},
		one("26", "internal/controlplane/controlplane.go", "		c.checkPending(ctx)\n", "", system, "TestKill/Operation"),
		one("26", "internal/controlplane/groupdeletion.go", "	defer ticker.Stop()\n	for {\n		items, _, err := c.store.Pending.List", "	defer ticker.Stop()\n	ticker.Stop()\n	select { // it looks for its own alone, and none that an earlier server left\n	case <-c.removals:\n	case <-ctx.Done():\n		return\n	}\n	for {\n		items, _, err := c.store.Pending.List", system, "TestKillGroupDeletion"),
		one("28", proxy, "panic(http.ErrAbortHandler) // it must not look whole", "_ = http.ErrAbortHandler", system, "TestSystemItem28HostileCluster"),
		one("31", cmd+"serve.go", "			ReadHeaderTimeout: 10 * time.Second,\n", "", system, "TestSystemItem30HostileSource"),
		one("35", "internal/tunnel/link.go", "if silent.tick(limit) || echoed != nil && waiting >= limit {", "if silent.tick(limit) && l.began.IsZero() || echoed != nil && waiting >= limit {", system, "TestSystemItem35WedgedTunnel"),
		one("40", "internal/gateway/gateway.go", "if recordErr := g.record(audit.Decision, rec, err); recordErr != nil {", "if recordErr := g.record(audit.Decision, rec, err); recordErr != nil && rec.ID == \"\" {", system, "TestChaosDiskFull"),
		one("40", cmd+"server.go", `strings.Contains(err.Error(), errno.Error())`, `strings.Contains(err.Error(), errno.Error()+"!")`, system, "TestChaosDiskReadOnly"),
		one("40", "internal/store/logger.go", "		attrs = append(attrs, \"hint\", ", "		_ = append(attrs, \"hint\", ", system, "TestChaosEtcdDiskFull"),
	}
}
