package idp

import (
	"container/list"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	codeLife = 10 * time.Minute
	maxCodes = 10_000 // the oldest gives way
)

// authorization is what a code stands for (RFC 6749 4.1.2).
type authorization struct {
	code        string
	session     session
	redirectURI string
	challenge   string // of PKCE, S256; "" for a client with a secret that sent none
	expires     time.Time
	redeemed    bool
}

// authorizations are the codes that are out. They live in memory: after a
// restart a user signs in again. Safe for concurrent use.
type authorizations struct {
	mu     sync.Mutex
	byCode map[string]*list.Element
	oldest list.List // of *authorization
}

func newAuthorizations() *authorizations {
	return &authorizations{byCode: map[string]*list.Element{}}
}

func (a *authorizations) add(one authorization, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for e := a.oldest.Front(); e != nil; e = a.oldest.Front() {
		old, _ := e.Value.(*authorization)
		if a.oldest.Len() < maxCodes && now.Before(old.expires) {
			break
		}
		a.oldest.Remove(e)
		delete(a.byCode, old.code)
	}
	a.byCode[one.code] = a.oldest.PushBack(&one)
}

// redeem returns the session of a code, once, to the client that asked for it
// and has the secret behind its challenge (RFC 7636 4.6).
func (a *authorizations) redeem(code, clientID, redirectURI, verifier string, now time.Time) (session, *oauthError) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.byCode[code]
	if !ok {
		return session{}, invalidGrant(9002313, "The authorization code is malformed or not known here.")
	}
	one, _ := e.Value.(*authorization)
	switch {
	case !now.Before(one.expires):
		return session{}, invalidGrant(70008, "The provided authorization code has expired. Send a new interactive authorization request.")
	case one.redeemed:
		return session{}, invalidGrant(54005, "OAuth2 Authorization code was already redeemed, please retry with a new valid code.")
	case !strings.EqualFold(one.session.ClientID, clientID):
		return session{}, invalidGrant(700005, "The provided authorization code was issued to another client.")
	case one.redirectURI != redirectURI:
		return session{}, invalidGrant(500112, "The reply address '%s' does not match the reply address provided when requesting the authorization code.", clip(redirectURI))
	case one.challenge != "" && verifier == "":
		return session{}, invalidGrant(50148, "The code_verifier is required: the authorization request had a code_challenge.")
	case one.challenge == "" && verifier != "": // somebody took the challenge out of the request (RFC 9700 2.1.1)
		return session{}, invalidGrant(501481, "The code_verifier is not expected: the authorization request had no code_challenge.")
	case one.challenge != "" && subtle.ConstantTimeCompare([]byte(one.challenge), []byte(challengeOf(verifier))) != 1:
		return session{}, invalidGrant(501481, "The Code_Verifier does not match the code_challenge supplied in the authorization request.")
	}
	one.redeemed = true
	return one.session, nil
}

// challengeOf is PKCE's S256 (RFC 7636 4.2).
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorizationCode is the grant of RFC 6749 4.1.3.
func authorizationCode(p *Provider, q *tokenRequest) (granted, *oauthError) {
	for _, name := range []string{"code", "redirect_uri"} {
		if q.form.Get(name) == "" {
			return granted{}, missingParameter(name)
		}
	}
	s, failure := p.codes.redeem(q.form.Get("code"), q.client.id, q.form.Get("redirect_uri"), q.form.Get("code_verifier"), p.cfg.Now())
	if failure != nil {
		return granted{}, failure
	}
	return p.sessionTokens(q, s)
}

// logout has nothing to end: no session is in the browser. It says so, and
// leads nowhere, since the address to go to is anybody's.
func logout(*Provider, *call) (any, *oauthError) {
	return page{Title: "Signed out", Text: "This browser holds no session here. Close the window to be sure that its program has forgotten you, too.", status: http.StatusOK}, nil
}
