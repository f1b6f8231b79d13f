package idp

import (
	"container/list"
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

const (
	deviceLife     = 15 * time.Minute
	deviceInterval = time.Second // between polls; Entra's is 5 s
	maxDeviceFlows = 1_000       // the oldest of whoever has most gives way
)

// deviceState is where a flow is.
type deviceState int

const (
	devicePending deviceState = iota
	deviceApproved
	deviceDeclined
)

// deviceFlow is one device that waits for its user (RFC 8628).
type deviceFlow struct {
	deviceCode, userCode string
	network              string // that it was begun from
	tenant               string // of the path, perhaps a shared one
	clientID, clientName string
	scope                string
	expires              time.Time
	polled               time.Time
	state                deviceState
	session              session // once approved
}

// deviceFlows are those under way. They live in memory: after a restart a user
// starts again. Safe for concurrent use.
type deviceFlows struct {
	mu        sync.Mutex
	byDevice  map[string]*list.Element
	byUser    map[string]*list.Element
	oldest    list.List      // of *deviceFlow
	byNetwork map[string]int // how many it has
}

func newDeviceFlows() *deviceFlows {
	return &deviceFlows{byDevice: map[string]*list.Element{}, byUser: map[string]*list.Element{}, byNetwork: map[string]int{}}
}

func (d *deviceFlows) add(f deviceFlow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.oldest.Len() >= maxDeviceFlows {
		d.remove(d.giving(f.network))
	}
	e := d.oldest.PushBack(&f)
	d.byDevice[f.deviceCode], d.byUser[f.userCode] = e, e
	d.byNetwork[f.network]++
}

// giving is the flow that gives way to a new one: the oldest of the network that
// has most, be it the newcomer's. So whoever begins many pushes out his own.
func (d *deviceFlows) giving(newcomer string) *list.Element {
	most := newcomer
	for network, n := range d.byNetwork {
		if n > d.byNetwork[most] {
			most = network
		}
	}
	for e := d.oldest.Front(); e != nil; e = e.Next() {
		if flowOf(e).network == most {
			return e
		}
	}
	return d.oldest.Front() // cannot be: somebody has most
}

func (d *deviceFlows) remove(e *list.Element) {
	f, _ := d.oldest.Remove(e).(*deviceFlow)
	delete(d.byDevice, f.deviceCode)
	delete(d.byUser, f.userCode)
	if d.byNetwork[f.network]--; d.byNetwork[f.network] == 0 {
		delete(d.byNetwork, f.network)
	}
}

// pending returns a flow that waits for its user.
func (d *deviceFlows) pending(userCode string, now time.Time) (deviceFlow, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.byUser[normalCode(userCode)]
	if !ok {
		return deviceFlow{}, false
	}
	f := flowOf(e)
	return *f, f.state == devicePending && now.Before(f.expires)
}

// settle ends the wait. It fails when somebody else has, or time is over.
func (d *deviceFlows) settle(userCode string, state deviceState, s session, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.byUser[normalCode(userCode)]
	if !ok {
		return false
	}
	f := flowOf(e)
	if f.state != devicePending || !now.Before(f.expires) {
		return false
	}
	f.state, f.session = state, s
	return true
}

// poll returns what has become of a flow. One that has ended is forgotten, so
// its tokens are given out once.
func (d *deviceFlows) poll(deviceCode, clientID string, now time.Time) (session, *oauthError) {
	refuse := func(kind string, code int, text string) (session, *oauthError) {
		return session{}, fail(http.StatusBadRequest, kind, code, "%s", text)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.byDevice[deviceCode]
	if !ok || !strings.EqualFold(flowOf(e).clientID, clientID) {
		return refuse("bad_verification_code", 70018, "The device_code is not known, or was issued to another client.")
	}
	f := flowOf(e)
	last := f.polled
	f.polled = now
	switch {
	case !now.Before(f.expires):
		d.remove(e)
		return refuse("expired_token", 70020, "The device code has expired.")
	case f.state == deviceDeclined:
		d.remove(e)
		return refuse("authorization_declined", 65004, "The user declined to sign the device in.")
	case f.state == deviceApproved:
		d.remove(e)
		return f.session, nil
	case now.Sub(last) < deviceInterval/2: // clients' clocks are not exact
		return refuse("slow_down", 70016, "The device polls too often.")
	}
	return refuse("authorization_pending", 70016, "OAuth 2.0 device flow error. Authorization is pending. Continue polling.")
}

func flowOf(e *list.Element) *deviceFlow {
	f, _ := e.Value.(*deviceFlow)
	return f
}

// codeLetters are those of user codes: no vowels and nothing that looks like
// another (RFC 8628 6.1).
const codeLetters = "BCDFGHJKLMNPQRSTVWXZ"

// newUserCode makes a code of nine letters, 38 bits.
func newUserCode() string {
	code := make([]byte, 0, 9)
	for len(code) < cap(code) {
		var b [1]byte
		_, _ = rand.Read(b[:])
		if n := int(b[0]); n < 240 { // a multiple of 20, so that all are as likely
			code = append(code, codeLetters[n%len(codeLetters)])
		}
	}
	return string(code)
}

// normalCode forgives how people type.
func normalCode(code string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(code))
}

// deviceAnswer is that of the v2 endpoint; the v1 endpoint's numbers are
// strings, and its page is verification_url.
type deviceAnswer struct {
	UserCode   string `json:"user_code"`
	DeviceCode string `json:"device_code"`
	URI        string `json:"verification_uri"`
	ExpiresIn  int    `json:"expires_in"`
	Interval   int    `json:"interval"`
	Message    string `json:"message"`
}

type deviceAnswerV1 struct {
	UserCode   string `json:"user_code"`
	DeviceCode string `json:"device_code"`
	URL        string `json:"verification_url"`
	ExpiresIn  string `json:"expires_in"`
	Interval   string `json:"interval"`
	Message    string `json:"message"`
}

func deviceCodeV2(p *Provider, c *call) (any, *oauthError) {
	return p.startDevice(c, true)
}

func deviceCodeV1(p *Provider, c *call) (any, *oauthError) {
	a, failure := p.startDevice(c, false)
	if failure != nil {
		return nil, failure
	}
	return deviceAnswerV1{a.UserCode, a.DeviceCode, a.URI, strconv.Itoa(a.ExpiresIn), strconv.Itoa(a.Interval), a.Message}, nil
}

// startDevice begins a flow (RFC 8628 3.1).
func (p *Provider) startDevice(c *call, v2 bool) (deviceAnswer, *oauthError) {
	form, failure := readForm(c.request)
	if failure != nil {
		return deviceAnswer{}, failure
	}
	q := &tokenRequest{call: c, form: form, v2: v2}
	if q.client, failure = readClient(c.request, form); failure != nil {
		return deviceAnswer{}, failure
	}
	c.client = q.client.id
	tenant, failure := p.tenantOfClient(c, q.client.id)
	if failure != nil {
		return deviceAnswer{}, failure
	}
	app, failure := p.client(c, tenant, q.client.id)
	if failure != nil {
		return deviceAnswer{}, failure
	}
	scope, failure := p.deviceScope(q, tenant)
	if failure != nil {
		return deviceAnswer{}, failure
	}
	f := deviceFlow{
		deviceCode: random(), userCode: newUserCode(), network: network(p.cfg.Remote(c.request)), tenant: c.tenant,
		clientID: app.ClientID, clientName: app.Name, scope: scope, expires: p.cfg.Now().Add(deviceLife),
	}
	p.devices.add(f)
	page := p.forBrowser(c.request) + "/devicelogin"
	return deviceAnswer{
		UserCode: f.userCode, DeviceCode: f.deviceCode, URI: page,
		ExpiresIn: int(deviceLife.Seconds()), Interval: int(deviceInterval.Seconds()),
		Message: "To sign in, use a web browser to open the page " + page + " and enter the code " + f.userCode + " to authenticate.",
	}, nil
}

// deviceScope is what the device asks for, checked if the tenant is known.
func (p *Provider) deviceScope(q *tokenRequest, tenant store.Tenant) (string, *oauthError) {
	if tenant.ID != "" {
		want, failure := p.wanted(q, tenant, "")
		return want.text(), failure
	}
	switch {
	case q.v2 && q.form.Get("scope") == "":
		return "", missingParameter("scope")
	case q.v2:
		return q.form.Get("scope"), nil
	case q.form.Get("resource") == "":
		return "", missingParameter("resource")
	}
	return q.form.Get("resource") + "/.default", nil
}

// tenantOfClient is the path's tenant, and at a shared one that of the client;
// for Microsoft's own any will do, since they are the same in all.
func (p *Provider) tenantOfClient(c *call, clientID string) (store.Tenant, *oauthError) {
	if !shared(c.tenant) {
		return p.tenant(c.request.Context(), c.tenant)
	}
	home, err := p.cfg.Directory.Home(c.request.Context(), strings.ToLower(clientID))
	switch {
	case isNotFound(err):
		return store.Tenant{}, unknownClient(clientID, c.tenant)
	case err != nil:
		return store.Tenant{}, unavailable(err)
	case home == "":
		return store.Tenant{}, nil
	}
	return p.tenant(c.request.Context(), home)
}

// deviceCode is the grant of a device that polls (RFC 8628 3.4).
func deviceCode(p *Provider, q *tokenRequest) (granted, *oauthError) {
	code := q.form.Get("device_code")
	if code == "" {
		code = q.form.Get("code") // v1 clients (spec/identity.md 3.2)
	}
	if code == "" {
		return granted{}, missingParameter("device_code")
	}
	s, failure := p.devices.poll(code, q.client.id, p.cfg.Now())
	if failure != nil {
		return granted{}, failure
	}
	return p.sessionTokens(q, s)
}
