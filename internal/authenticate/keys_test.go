package authenticate_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
)

// tokenB is signed with the second key.
func tokenB() string {
	return sign(keyB(), header().with(fields{"kid": "b"}).json(), payload().json())
}

// TestItem18UnknownKidStorm is checklist item 18.
func TestItem18UnknownKidStorm(t *testing.T) {
	src, clk := newSource(), &clock{t: start}
	v := newVerifier(t, config(src, clk))
	var wg sync.WaitGroup
	for worker := range 20 {
		wg.Go(func() {
			for i := range 500 {
				h := header().with(fields{"kid": fmt.Sprintf("k-%d-%d", worker, i)})
				tok := b64([]byte(h.json())) + "." + b64([]byte(payload().json())) + ".AAAA"
				if _, err := v.Principal(t.Context(), tok); err == nil {
					t.Error("verified")
				}
			}
		})
	}
	wg.Wait()
	if n := src.count(); n != 1 {
		t.Errorf("10,000 unknown kids caused %d fetches", n)
	}
	// The storm does not stop those whose key is known.
	if _, err := v.Principal(t.Context(), token(nil)); err != nil {
		t.Error(err)
	}
	clk.add(5 * time.Minute)
	for range 100 {
		_, err := v.Principal(t.Context(), tokenB())
		refusal(t, err)
	}
	if n := src.count(); n != 2 {
		t.Errorf("%d fetches after five minutes, want 2", n)
	}
}

func TestRotation(t *testing.T) {
	src, clk := newSource(), &clock{t: start}
	v := newVerifier(t, config(src, clk))
	check := func(tok string, want bool) {
		t.Helper()
		if _, err := v.Principal(t.Context(), tok); (err == nil) != want {
			t.Errorf("verified is %t, want %t: %v", err == nil, want, err)
		}
	}
	check(token(nil), true)
	check(tokenB(), false)
	src.set(jwks(jwkOf("a", &keyA().PublicKey), jwkOf("b", &keyB().PublicKey)), nil)
	check(tokenB(), false) // asked a moment ago
	clk.add(5 * time.Minute)
	check(tokenB(), true)
	check(token(nil), true)
	// A withdrawn key ends with the next fetch, for remembered tokens as well.
	src.set(jwks(jwkOf("b", &keyB().PublicKey)), nil)
	clk.add(5 * time.Minute)
	check(token(nil), true) // a's last fetch still holds
	check(sign(keyB(), header().with(fields{"kid": "c"}).json(), payload().json()), false)
	check(token(nil), false)
}

// TestItem18Outage: the last good keys serve for a day, and not longer.
func TestItem18Outage(t *testing.T) {
	src, clk := newSource(), &clock{t: start}
	v := newVerifier(t, config(src, clk))
	if _, err := v.Principal(t.Context(), token(nil)); err != nil {
		t.Fatal(err)
	}
	fresh := func() string {
		now := clk.now().Unix()
		return token(fields{"iat": now, "nbf": now, "exp": now + 3600})
	}
	for _, bad := range []struct {
		body []byte
		err  error
	}{{nil, errors.New("down")}, {[]byte("<html>"), nil}, {jwks(), nil}, {[]byte(`{"keys":[]}` + strings.Repeat(" ", 1<<20)), nil}} {
		src.set(bad.body, bad.err)
		clk.add(5 * time.Hour)
		refusal(t, second(v.Principal(t.Context(), tokenB()))) // causes a fetch
		if _, err := v.Principal(t.Context(), fresh()); err != nil {
			t.Errorf("last good keys did not serve: %v", err)
		}
	}
	clk.add(4 * time.Hour)
	_, err := v.Principal(t.Context(), fresh())
	if !errors.Is(err, access.ErrUnavailable) || errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("after a day: %v", err)
	}
	if strings.Contains(err.Error(), "down") {
		t.Errorf("the cause is for the log: %v", err)
	}
	src.set(jwks(jwkOf("a", &keyA().PublicKey)), nil)
	clk.add(10 * time.Second)
	if _, err := v.Principal(t.Context(), fresh()); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

func second(_ access.Principal, err error) error { return err }

func TestBadKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	a := func() fields { return jwkOf("a", &keyA().PublicKey) }
	tests := []struct {
		name string
		key  fields // the only one with kid a
		want bool
	}{
		{"good", a(), true},
		{"alg RS256", a().with(fields{"alg": "RS256"}), true},
		{"no issuer", a().with(fields{"issuer": nil}), true},
		{"issuer written out", a().with(fields{"issuer": iss(tenant)}), true},
		{"another tenant's", a().with(fields{"issuer": iss(otherTID)}), false},
		{"1024 bits", jwkOf("a", &weak.PublicKey), false},
		{"EC", a().with(fields{"kty": "EC"}), false},
		{"symmetric", fields{"kty": "oct", "kid": "a", "k": "AAAA"}, false},
		{"for encryption", a().with(fields{"use": "enc"}), false},
		{"alg RS512", a().with(fields{"alg": "RS512"}), false},
		{"no kid", a().with(fields{"kid": nil}), false},
		{"kid a number", a().with(fields{"kid": 7}), false},
		{"n not base64", a().with(fields{"n": "!"}), false},
		{"n empty", a().with(fields{"n": ""}), false},
		{"e is 1", a().with(fields{"e": "AQ"}), false},
		{"e is 3", a().with(fields{"e": "Aw"}), false},
		{"e even", a().with(fields{"e": "AQAA"}), false},
		{"e huge", a().with(fields{"e": b64([]byte(strings.Repeat("\x01", 200)))}), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			src := &source{body: jwks(test.key, jwkOf("b", &keyB().PublicKey), fields{})}
			v := newVerifier(t, config(src, &clock{t: start}))
			if err := second(v.Principal(t.Context(), token(nil))); (err == nil) != test.want {
				t.Errorf("error is %v", err)
			}
			// Whatever it is, the other key serves.
			if err := second(v.Principal(t.Context(), tokenB())); err != nil {
				t.Errorf("second key: %v", err)
			}
		})
	}
	t.Run("one kid for two keys", func(t *testing.T) {
		src := &source{body: jwks(a(), jwkOf("a", &keyB().PublicKey), jwkOf("b", &keyB().PublicKey))}
		v := newVerifier(t, config(src, &clock{t: start}))
		refusal(t, second(v.Principal(t.Context(), token(nil))))
	})
}

// TestCacheEnds: a remembered token ends with its exp.
func TestCacheEnds(t *testing.T) {
	clk := &clock{t: start}
	v := newVerifier(t, config(newSource(), clk))
	tok := token(fields{"exp": start.Unix() + 30})
	for range 2 {
		if _, err := v.Principal(t.Context(), tok); err != nil {
			t.Fatal(err)
		}
	}
	clk.add(89 * time.Second) // 30 s and the skew, less one
	if _, err := v.Principal(t.Context(), tok); err != nil {
		t.Error(err)
	}
	clk.add(time.Second)
	if r := refusal(t, second(v.Principal(t.Context(), tok))); r.Code != authenticate.Expired {
		t.Errorf("code is %s", r.Code)
	}
}

// TestRun: keys are fetched at once and hourly, and each minute after a failure.
func TestRun(t *testing.T) {
	keyA() // outside, for making it takes real time
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		cfg := config(src, &clock{t: start})
		cfg.Now = time.Now
		v := newVerifier(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		expect := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := src.count(); n != want {
				t.Errorf("%d fetches, want %d", n, want)
			}
		}
		expect(1)
		<-time.After(59 * time.Minute)
		expect(1)
		src.set(nil, errors.New("down"))
		<-time.After(2 * time.Minute)
		expect(3) // at 60:00 and 61:00, both failed
		src.set(newSource().body, nil)
		<-time.After(time.Minute)
		expect(4)
		<-time.After(59 * time.Minute)
		expect(4)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRunJoinsFailure: a fetch that a caller caused and Run only waited for has
// failed for Run as well.
func TestRunJoinsFailure(t *testing.T) {
	tok := token(nil)
	synctest.Test(t, func(t *testing.T) {
		fail := make(chan struct{})
		fetches := 0
		cfg := config(newSource(), &clock{t: start})
		cfg.Issuers[0].Fetch = func(context.Context) ([]byte, error) {
			if fetches++; fetches == 1 {
				<-fail
				return nil, errors.New("down")
			}
			return jwks(jwkOf("a", &keyA().PublicKey)), nil
		}
		v := newVerifier(t, cfg)
		caller := make(chan error, 1)
		go func() { caller <- second(v.Principal(t.Context(), tok)) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()
		close(fail)
		if err := <-caller; !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("the caller: %v", err)
		}
		<-time.After(61 * time.Second)
		synctest.Wait()
		if fetches != 2 {
			t.Errorf("%d fetches a minute after the failure, want 2", fetches)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestItem18SingleFlight: callers without keys wait for one fetch, and one of them
// going away does not fail the rest.
func TestItem18SingleFlight(t *testing.T) {
	tok := token(nil)
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		fetches := 0
		cfg := config(newSource(), &clock{t: start})
		cfg.Issuers[0].Fetch = func(ctx context.Context) ([]byte, error) {
			fetches++
			select {
			case <-release:
				return jwks(jwkOf("a", &keyA().PublicKey)), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		v := newVerifier(t, cfg)
		first, leave := context.WithCancel(t.Context())
		results := make(chan error, 11)
		go func() { results <- second(v.Principal(first, tok)) }()
		synctest.Wait()
		for range 10 {
			go func() { results <- second(v.Principal(t.Context(), tok)) }()
		}
		synctest.Wait()
		leave()
		close(release)
		for range 11 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if fetches != 1 {
			t.Errorf("%d fetches", fetches)
		}
	})
}

// TestItem18SlowIssuer: a fetch that hangs ends after five seconds, and those
// whose key is known never wait for it.
func TestItem18SlowIssuer(t *testing.T) {
	known, unknown := token(nil), tokenB()
	synctest.Test(t, func(t *testing.T) {
		slow := false
		clk := &clock{t: start}
		cfg := config(newSource(), clk)
		cfg.Issuers[0].Fetch = func(ctx context.Context) ([]byte, error) {
			if slow {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return jwks(jwkOf("a", &keyA().PublicKey)), nil
		}
		v := newVerifier(t, cfg)
		if err := second(v.Principal(t.Context(), known)); err != nil {
			t.Fatal(err)
		}
		slow = true
		clk.add(5 * time.Minute) // or the last fetch that was asked for is too new
		began := time.Now()
		asked := make(chan error, 1)
		go func() { asked <- second(v.Principal(t.Context(), unknown)) }()
		synctest.Wait()
		if err := second(v.Principal(t.Context(), known)); err != nil || time.Since(began) != 0 {
			t.Errorf("a known key waited %s: %v", time.Since(began), err)
		}
		refusal(t, <-asked)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the fetch took %s", took)
		}
	})
}
