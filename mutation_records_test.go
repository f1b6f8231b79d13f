package sallyport_test

// recordMutations are of secrets, keys and the audit log: items 39 to 41, and
// the store and its backups (decision 0021).
func recordMutations() []mutation {
	return []mutation{
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
