package idp

import "time"

// sealedSession is a refresh token: a session with its end, sealed. Each use
// gives a new one and the old one stays good, as in Entra; what ends them all
// is the user's stamp.
type sealedSession struct {
	session
	Expires int64 `json:"expires"`
}

const refreshPurpose = "refresh token"

func (p *Provider) refreshToken(s session) (string, error) {
	return p.cfg.Keys.seal(refreshPurpose, sealedSession{s, p.cfg.Now().Add(refreshTokenLife).Unix()})
}

// refresh is the grant of RFC 6749 6. A token may be used for another resource
// than it was issued with, as Entra's may; az lives by that.
func refresh(p *Provider, q *tokenRequest) (granted, *oauthError) {
	text := q.form.Get("refresh_token")
	if text == "" {
		return granted{}, missingParameter("refresh_token")
	}
	var s sealedSession
	if err := p.cfg.Keys.open(refreshPurpose, text, &s); err != nil {
		return granted{}, invalidGrant(9002313, "The refresh token is malformed or invalid.")
	}
	if end := time.Unix(s.Expires, 0); !p.cfg.Now().Before(end) {
		return granted{}, invalidGrant(700082, "The refresh token has expired due to inactivity. It was valid until %s.", end.UTC().Format(time.RFC3339))
	}
	return p.sessionTokens(q, s.session)
}
