package sallyport_test

// recordMutations are of secrets, keys and the audit log: items 39 to 41, and
// the store and its backups (decision 0021).
func recordMutations() []mutation {
	return []mutation{
		one("0021", "cmd/sallyport/serve.go", "		defer s.writing(r)()\n		s.serveAzure(part, w, r)\n", "		s.serveAzure(part, w, r)\n", "./cmd/sallyport", "TestWritesHoldABackupOff"),
		one("0021", "cmd/sallyport/serve.go", "	defer s.writing(r)()\n	switch first {\n", "	switch first {\n", "./cmd/sallyport", "TestWritesHoldABackupOff"),
		{"0021", []edit{ // the records of a commit are written one by one
			{"internal/store/commit.go", "resp, err := s.conn.client.Txn(ctx).If(conditions...).Then(writes...).Else(reads...).Commit()\n", "var resp *clientv3.TxnResponse\n	for _, write := range writes {\n		if resp, err = s.conn.client.Txn(ctx).Then(write).Commit(); err != nil {\n			break\n		}\n	}\n	_, _ = conditions, reads\n"},
		}, "./internal/store", "TestKill"},
		{"0021", []edit{ // a write is acknowledged before etcd has it
			{"internal/store/commit.go", "resp, err := s.conn.client.Txn(ctx).If(conditions...).Then(writes...).Else(reads...).Commit()\n", "early := map[string]bool{}\n	for _, c := range changes {\n		early[c.path] = true\n	}\n	if len(early) > 1 {\n		go s.conn.client.Txn(context.WithoutCancel(ctx)).Then(writes...).Commit()\n		return 1, nil\n	}\n	resp, err := s.conn.client.Txn(ctx).If(conditions...).Then(writes...).Else(reads...).Commit()\n"},
		}, "./internal/store", "TestKill"},
		one("39", "internal/controlplane/request.go", `"path", access.Clip(q.http.URL.EscapedPath(), 512)`, `"path", access.Clip(q.http.URL.String(), 512)`, "./internal/controlplane", "TestItem39NoSecretIsLogged"),
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
	}
}
