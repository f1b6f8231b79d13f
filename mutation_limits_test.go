package sallyport_test

// limitMutations are of what one may take from others: items 30 to 34 and 38.
func limitMutations() []mutation {
	return []mutation{
		one("30", "internal/tunnel/link.go", "			WriteByteTimeout:              writeTimeout,\n", "", tunnel, "TestItem30AgentThatReadsNothing"),
		one("31", "cmd/sallyport/handshake.go", "if h.conns.Len() >= h.most {", "if h.conns.Len() >= 1000*h.most {", "./cmd/sallyport", "TestItem31HalfOpenConnectionsLockNobodyOut"),
		one("31", "cmd/sallyport/handshake.go", "		oldest := h.conns.Front()\n		h.conns.Remove(oldest)\n		oldest.Value.(net.Conn).Close()\n", "		conn.Close()\n", "./cmd/sallyport", "TestItem31HalfOpenConnectionsLockNobodyOut"),
		one("32", "internal/gateway/gateway.go", "	defer cutWrites(ctx, w)()\n", "", gateway, "TestItem32StalledClientIsCut"),
		one("33", "internal/gateway/gateway.go", "	defer release()\n	ctx, cancel := context.WithDeadlineCause", "	_ = release\n	ctx, cancel := context.WithDeadlineCause", gateway, "TestItem33AbortedRequestsLeaveNothing"),
		one("33", "internal/tunnel/upgrade.go", "	stop := context.AfterFunc(ctx, func() { abort(c) })\n	defer stop()\n", "", tunnel, "TestUpgradeAbort"),
		{"33", []edit{ // either is enough
			{"internal/tunnel/upgraded.go", "	stop := context.AfterFunc(ctx, func() { abort(conn) })\n	defer stop()\n", ""},
			{"internal/tunnel/upgraded.go", "		default:\n			abort(conn)\n		}\n		up <- err\n", "		}\n		up <- err\n"},
		}, tunnel, "TestUpgradeAbort"},
		one("34", "internal/tunnel/backoff.go", "return rand.N(b.bound)", "return b.bound + rand.N(time.Nanosecond)", tunnel, "TestItem34BackoffSpreads"),
		one("34", "internal/controlplane/presence.go", "			c.feeds.remember(uid, key)\n", "			_, _ = uid, key\n", "./internal/controlplane", "TestItem34ClustersAreKnown"),
		one("34", "cmd/sallyport/listen.go", "	leave()\n	stop()\n", "	defer leave()\n	stop()\n", "./cmd/sallyport", "TestItem34HandshakesInTurn"),
		one("34", "cmd/sallyport/handshake.go", "		t = &c.all.agent\n", "		_ = c.all.agent\n", "./cmd/sallyport", "TestItem34HandshakesInTurn"),
		one("38", "internal/gateway/limits.go", "if wait := r.DelayFrom(now); wait > 0 {", "if wait := r.DelayFrom(now); wait > time.Hour {", gateway, "TestItem38TooMany"),
		one("38", "internal/gateway/limits.go", "most > 0 && s.streams >= most", "most > 0 && s.streams > 1<<30", gateway, "TestItem38TooMany"),
		one("38", "internal/gateway/gateway.go", "paced{adm.to, adm.lease}", "paced{adm.to, lease{}}", gateway, "TestItem38BytesArePaced"),
	}
}
