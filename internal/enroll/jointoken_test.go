package enroll_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/strictjson"
)

func TestJoinTokenWorksOnce(t *testing.T) {
	g := newGateway(t)
	token := g.join(t)
	if err := g.enrol(t, token); err != nil {
		t.Fatal(err)
	}
	if c, _ := g.records.Cluster(t.Context(), clusterID(t)); c.Generation != 1 || c.AgentIssuer != issuer || !c.JoinIssued {
		t.Errorf("cluster is %+v", c)
	}
	if e := g.lastEvent(); e.Action != enroll.ActionEnrol || e.Generation != 1 || e.Issuer != issuer || e.Err != nil {
		t.Errorf("event is %+v", e)
	}
	if err := g.enrol(t, token); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("second use: %v, want ErrUnauthenticated", err)
	}
	if e := g.lastEvent(); e.Err == nil || e.Generation != 0 {
		t.Errorf("event of the refusal is %+v", e)
	}
}

func TestJoinTokenRefused(t *testing.T) {
	g := newGateway(t)
	edit := func(token enroll.JoinToken, change func(map[string]any)) enroll.JoinToken {
		t.Helper()
		_, encoded, _ := strings.Cut(token.Text(), ".")
		raw, err := base64.RawURLEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]any{}
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		change(fields)
		// In the order that the format has.
		text := fmt.Sprintf(`{"address":%q,"clusterId":%q,"clusterUid":%q,"caHash":%q,"id":%q,"secret":%q}`,
			fields["address"], fields["clusterId"], fields["clusterUid"], fields["caHash"], fields["id"], fields["secret"])
		edited, err := enroll.ParseJoinToken("sallyport-join-v1." + base64.RawURLEncoding.EncodeToString([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		return edited
	}
	tests := map[string]func(map[string]any){
		"wrong secret": func(f map[string]any) { f["secret"] = base64.StdEncoding.EncodeToString(make([]byte, 32)) },
		"unknown id":   func(f map[string]any) { f["id"] = "00000000-0000-0000-0000-000000000000" },
		"other uid":    func(f map[string]any) { f["clusterUid"] = "00000000-0000-0000-0000-000000000000" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			token := g.join(t)
			// The uid of the answer must not be what refuses.
			if err := g.enrol(t, edit(token, change)); !errors.Is(err, access.ErrUnauthenticated) {
				t.Errorf("error is %v, want ErrUnauthenticated", err)
			}
			if err := g.enrol(t, token); err != nil {
				t.Errorf("the right token no longer works: %v", err)
			}
		})
	}
	t.Run("ended", func(t *testing.T) {
		token := g.join(t)
		g.clock.add(time.Hour)
		if err := g.enrol(t, token); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("error is %v, want ErrUnauthenticated", err)
		}
	})
	t.Run("other cluster", func(t *testing.T) {
		id, err := access.ParseResourceID(clusterText + "2")
		if err != nil {
			t.Fatal(err)
		}
		g.records.register(t, access.Cluster{ID: id, UID: "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee"})
		token := edit(g.join(t), func(f map[string]any) { f["clusterId"] = id.String() })
		client := g.client(t)
		client.ClusterID = id
		err = client.Enrol(t.Context(), token, issuer, g.kube.jwks(t), g.kube.token(t, reportSub))
		if !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("error is %v, want ErrUnauthenticated", err)
		}
	})
	t.Run("unknown cluster", func(t *testing.T) {
		id, err := access.ParseResourceID(clusterText + "3")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := g.server.NewJoinToken(t.Context(), id, false); !errors.Is(err, access.ErrNotFound) {
			t.Errorf("error is %v, want ErrNotFound", err)
		}
	})
}

// TestMistakenKeysKeepTheToken shows that an enrolment which could never work
// is refused while the join token can still be used.
func TestMistakenKeysKeepTheToken(t *testing.T) {
	g := newGateway(t)
	token := g.join(t)
	other := newKube(t, g.clock.now)
	private := strings.Replace(string(g.kube.jwks(t)), `"kty":"RSA"`, `"kty":"RSA","d":"AQAB"`, 1)
	tests := map[string]struct {
		issuer, jwks, proof string
	}{
		"keys of another cluster": {issuer: issuer, jwks: string(other.jwks(t)), proof: g.kube.token(t, reportSub)},
		"another issuer":          {issuer: issuer + "/", jwks: string(g.kube.jwks(t)), proof: g.kube.token(t, reportSub)},
		"proof of the proxy":      {issuer: issuer, jwks: string(g.kube.jwks(t)), proof: g.kube.token(t, proxySub)},
		"no proof":                {issuer: issuer, jwks: string(g.kube.jwks(t)), proof: ""},
		"private key":             {issuer: issuer, jwks: private, proof: g.kube.token(t, reportSub)},
		"no keys":                 {issuer: issuer, jwks: `{"keys":[]}`, proof: g.kube.token(t, reportSub)},
		"not a key set":           {issuer: issuer, jwks: `[1]`, proof: g.kube.token(t, reportSub)},
		"duplicate keys":          {issuer: issuer, jwks: `{"keys":[],"Keys":[]}`, proof: g.kube.token(t, reportSub)},
		"secret key":              {issuer: issuer, jwks: `{"keys":[{"kty":"oct","kid":"r1","k":"AAAA"}]}`, proof: g.kube.token(t, reportSub)},
		"issuer with a space":     {issuer: "a b", jwks: string(g.kube.jwks(t)), proof: g.kube.token(t, reportSub)},
		"body too long":           {issuer: issuer, jwks: `"` + strings.Repeat("a", 65<<10) + `"`, proof: g.kube.token(t, reportSub)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := g.client(t).Enrol(t.Context(), token, tt.issuer, []byte(tt.jwks), tt.proof)
			if !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v, want ErrInvalid", err)
			}
		})
	}
	if err := g.enrol(t, token); err != nil {
		t.Errorf("the token no longer works: %v", err)
	}
	if c, _ := g.records.Cluster(t.Context(), clusterID(t)); bytes.Contains(c.AgentKeys, []byte("OKP")) {
		t.Errorf("recorded keys hold one that is not used: %s", c.AgentKeys)
	}
}

// TestConcurrentEnrolments holds both enrolments between reading and writing,
// so that both have seen a good token.
func TestConcurrentEnrolments(t *testing.T) {
	tests := map[string]bool{"one token": true, "two tokens": false}
	for name, sameToken := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			tokens := []enroll.JoinToken{g.join(t), g.join(t)}
			if sameToken {
				tokens[1] = tokens[0]
			}
			var meet sync.WaitGroup
			meet.Add(2)
			g.records.between = func() {
				meet.Done()
				meet.Wait()
			}
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for i := range tokens {
				wg.Go(func() { errs[i] = g.enrol(t, tokens[i]) })
			}
			wg.Wait()
			g.records.between = nil
			loser := 0
			if errs[0] == nil {
				loser = 1
			}
			if errs[1-loser] != nil || !errors.Is(errs[loser], access.ErrConflict) {
				t.Fatalf("errors are %v, want one nil and one ErrConflict", errs)
			}
			if c, _ := g.records.Cluster(t.Context(), clusterID(t)); c.Generation != 1 {
				t.Errorf("generation is %d, want 1", c.Generation)
			}
			again := g.enrol(t, tokens[loser])
			if sameToken && !errors.Is(again, access.ErrUnauthenticated) {
				t.Errorf("used token: %v, want ErrUnauthenticated", again)
			}
			if !sameToken && again != nil {
				t.Errorf("the other token: %v", again)
			}
		})
	}
}

func TestJoinTokenHidesItsSecret(t *testing.T) {
	g := newGateway(t)
	token := g.join(t)
	_, encoded, _ := strings.Cut(token.Text(), ".")
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	var wire struct{ Secret []byte }
	if err := json.Unmarshal(raw, &wire); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token)
	all := fmt.Sprintf("%v %+v %#v %s %s", token, token, token, asJSON, log.String())
	for _, secret := range []string{token.Text(), base64.StdEncoding.EncodeToString(wire.Secret), fmt.Sprint(wire.Secret)} {
		if strings.Contains(all, secret) {
			t.Errorf("the secret shows in %s", all)
		}
	}
}

// FuzzParseJoinToken: what is taken is written back to the same bytes, and a
// strict reader of JSON finds the same in it. With encoded set the text is the
// token as a user pastes it, else the JSON inside it.
func FuzzParseJoinToken(f *testing.F) {
	const prefix = "sallyport-join-v1."
	wrap := func(s string) string { return prefix + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	secret := base64.StdEncoding.EncodeToString(make([]byte, 32))
	good := `{"address":"gw.example.com:443","clusterId":"` + clusterText + `","clusterUid":"` + clusterUID + `","caHash":"sha256:` + strings.Repeat("0a", 32) + `","id":"` + clusterUID + `","secret":"` + secret + `"}`
	if _, err := enroll.ParseJoinToken(wrap(good)); err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		good, good + " ", good + good, strings.Replace(good, `"id"`, `"ID"`, 1), strings.Replace(good, `{`, `{"address":"evil:1",`, 1),
		strings.Replace(good, ":443", ":0443", 1), strings.Replace(good, "gw.example.com", "user@evil", 1), strings.Replace(good, "gw.example.com", "[2001:db8::1]", 1), strings.Replace(good, "AAAA", "A\nAA", 1),
	} {
		f.Add(text, false)
		f.Add(wrap(text), true)
	}
	f.Add(wrap(good)+"=", true)
	f.Add(wrap(good)+"\n", true)
	f.Fuzz(func(t *testing.T, s string, encoded bool) {
		if !encoded {
			s = wrap(s)
		}
		token, err := enroll.ParseJoinToken(s)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) || len(err.Error()) > 2000 {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if token.Text() != s {
			t.Errorf("%q is written as %q", s, token.Text())
		}
		text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s, prefix))
		if err != nil {
			t.Fatal(err)
		}
		var again struct{ Address, ClusterID, ClusterUID, CAHash, ID, Secret string }
		if err := strictjson.Decode(text, strictjson.Rules{MaxDepth: 1, FoldCase: true}, &again); err != nil {
			t.Fatalf("%q: a strict reader says %v", text, err)
		}
		if again.Address != token.Address || again.ClusterID != token.ClusterID.String() || again.ClusterUID != token.ClusterUID || again.CAHash != token.CAHash || again.ID != token.ID {
			t.Errorf("%q: we read %+v, a strict reader %+v", text, token, again)
		}
		if raw, err := base64.StdEncoding.Strict().DecodeString(again.Secret); err != nil || len(raw) != 32 || strings.Contains(token.String(), again.Secret) {
			t.Errorf("the secret has %d bytes, %v, or shows in %s", len(raw), err, token)
		}
	})
}
