package idp

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/access"
)

// approval is sealed for a user who has shown his password: with it he says
// yes or no to one device.
type approval struct {
	UserCode string  `json:"userCode"`
	Session  session `json:"session"`
	Expires  int64   `json:"expires"`
}

const (
	approvalPurpose = "device approval"
	approvalLife    = 5 * time.Minute
)

func isNotFound(err error) bool { return errors.Is(err, access.ErrNotFound) }

// deviceLogin shows the form for a device's code, name and password.
func deviceLogin(_ *Provider, c *call) (any, *oauthError) {
	return deviceForm(c.request.URL.Query().Get("otc"), ""), nil
}

func deviceForm(code, warning string) page {
	pg := page{
		Title: "Sign a device in", Warning: warning, Form: true, Action: "/devicelogin", Code: true, SignIn: true, Login: clipEmpty(code),
		Text:    "Enter the code only if you started this sign-in yourself, on a device of yours.",
		Buttons: []button{{"signin", "Next"}},
	}
	if warning != "" {
		pg.status = http.StatusBadRequest
	}
	return pg
}

func clipEmpty(s string) string {
	if s == "" {
		return ""
	}
	return clip(s)
}

// deviceSignIn takes either form of the page: the first proves the user, the
// second is his yes or no.
func deviceSignIn(p *Provider, c *call) (any, *oauthError) {
	form, failure := readForm(c.request)
	if failure != nil {
		return nil, failure
	}
	if form.Get("approval") != "" {
		return p.settleDevice(form)
	}
	code, upn := form.Get("user_code"), form.Get("username")
	now, address := p.cfg.Now(), p.cfg.Remote(c.request)
	if !p.attempts.allowed("", address) {
		return deviceForm(code, "Too many tries from your address. Wait a minute."), nil
	}
	flow, ok := p.devices.pending(code, now)
	if !ok {
		p.attempts.fail("", address)
		return deviceForm("", "That code is not known, or it has expired."), nil
	}
	tenant, failure := p.tenantOfUser(c.request.Context(), flow.tenant, upn)
	if failure == nil {
		c.tenant = tenant.ID
		user, failed := p.signIn(c, tenant, upn, form.Get("password"))
		if failed == nil {
			return p.askApproval(flow, newSession(user, flow.clientID, flow.scope, now), user.UPN)
		}
		failure = failed
	}
	if failure.status >= http.StatusInternalServerError {
		return nil, failure
	}
	if failure.code == 90002 { // no tenant has that domain
		failure = wrongPassword()
	}
	return deviceForm(code, failure.text), nil
}

// askApproval says which program wants in. The user has signed in, and nothing
// has been given to the device yet.
func (p *Provider) askApproval(flow deviceFlow, s session, upn string) (any, *oauthError) {
	sealed, err := p.cfg.Keys.seal(approvalPurpose, approval{flow.userCode, s, p.cfg.Now().Add(approvalLife).Unix()})
	if err != nil {
		return nil, unavailable(err)
	}
	return page{
		Title: "Sign in to " + flow.clientName + "?", Form: true, Action: "/devicelogin", Hidden: map[string]string{"approval": sealed},
		Text:    "You are signing in as " + upn + " on a device that runs " + flow.clientName + " (" + flow.clientID + "). It will act as you. Do not continue if somebody sent you the code.",
		Buttons: []button{{"approve", "Continue"}, {"decline", "Cancel"}},
	}, nil
}

func (p *Provider) settleDevice(form url.Values) (any, *oauthError) {
	var a approval
	now := p.cfg.Now()
	if err := p.cfg.Keys.open(approvalPurpose, form.Get("approval"), &a); err != nil || now.Unix() >= a.Expires {
		return deviceForm("", "This page is out of date. Begin again."), nil
	}
	state, done := deviceDeclined, page{Title: "Cancelled", Text: "The device was not signed in. You can close this window."}
	if form.Get("action") == "approve" {
		state, done = deviceApproved, page{Title: "Signed in", Text: "The device is signed in. You can close this window."}
	}
	if !p.devices.settle(a.UserCode, state, a.Session, now) {
		return deviceForm("", "That code is not known, or it has expired."), nil
	}
	return done, nil
}
