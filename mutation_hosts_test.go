package sallyport_test

// hostMutations are of Azure's host names: decision 0013.
func hostMutations() []mutation {
	return []mutation{
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
