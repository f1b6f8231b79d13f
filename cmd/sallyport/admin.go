package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/audit"
)

// adminSocket is the file in the data folder by which `sallyport keys` and
// `sallyport backup` reach the server. It is a socket and no port: who may use
// it is who may read the folder, which holds all the keys anyway, and nobody
// can be sent there from outside.
const adminSocket = "admin.sock"

// maxSocketPath is what a Unix socket's name may have, on the strictest system.
const maxSocketPath = 103

// listenAdmin opens the socket. One that a killed server left is in the way.
func (s *server) listenAdmin() (net.Listener, error) {
	path, err := filepath.Abs(filepath.Join(s.cfg.DataDir, adminSocket))
	if err != nil {
		return nil, err
	}
	if len(path) > maxSocketPath {
		s.log.Warn("no socket for 'sallyport keys' and 'sallyport backup': the data folder's path is too long", "path", path, "most", maxSocketPath)
		return nil, nil
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, withHint(fmt.Errorf("data folder %s is in use: another server answers on %s: %w", s.cfg.DataDir, path, access.ErrConflict), "stop that one, or choose another --data-dir")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // the folder is 0700 meanwhile
		ln.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return ln, nil
}

// adminServer serves the socket.
func (s *server) adminServer() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(s.serveAdmin), ReadHeaderTimeout: 10 * time.Second, ErrorLog: s.httpLog(),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, socketPeer(conn))
		},
	}
}

// peerKey is the context key of who is at the other end of the socket.
type peerKey struct{}

// adminError is a refusal as the socket carries it.
type adminError struct {
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (s *server) serveAdmin(w http.ResponseWriter, r *http.Request) {
	arm.LimitBody(w, r)
	var answer any
	var err error
	if r.Method == http.MethodGet && r.URL.Path == "/v1/backup" {
		if err = s.serveBackup(w, r); err == nil {
			return
		}
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/backup": // failed before its first byte
	case "GET /v1/keys":
		answer = s.listKeys()
	case "POST /v1/keys/rotate":
		answer, err = adminCall(r, s.rotateKeys)
	case "POST /v1/keys/retire":
		answer, err = adminCall(r, s.retireKeys)
	default:
		err = fmt.Errorf("this server does not know %s %s; is the command of another version? %w", access.Clip(r.Method, arm.MaxMethod), access.Clip(r.URL.Path, 100), access.ErrNotFound)
	}
	status := http.StatusOK
	if err != nil {
		s.log.Error("admin", "path", r.URL.Path, "error", err)
		status = http.StatusInternalServerError
		for _, k := range adminKinds() {
			if errors.Is(err, k.kind) {
				status = k.status
			}
		}
		answer = adminError{Message: access.Message(err), Hint: hintOf(nil, err)}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a failure here is the client's connection
}

// adminKind ties a kind of error to the status that carries it.
type adminKind struct {
	kind   error
	status int
}

func adminKinds() []adminKind {
	return []adminKind{
		{access.ErrInvalid, http.StatusBadRequest},
		{access.ErrForbidden, http.StatusForbidden},
		{access.ErrNotFound, http.StatusNotFound},
		{access.ErrConflict, http.StatusConflict},
		{access.ErrUnavailable, http.StatusServiceUnavailable},
	}
}

// adminCall reads the body of a call and makes it.
func adminCall[Req, Resp any](r *http.Request, call func(context.Context, Req) (Resp, error)) (answer Resp, err error) {
	var req Req
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return answer, fmt.Errorf("body: %w: %w", err, access.ErrInvalid)
	}
	return call(r.Context(), req)
}

// recordAdmin records a deed before it is done: not recorded means refused.
func (s *server) recordAdmin(ctx context.Context, id, action string, detail map[string]any) error {
	by, _ := ctx.Value(peerKey{}).(string)
	allowed := true
	return s.record(audit.Record{
		Time: s.cfg.now().UTC(), Stage: audit.Consent, ID: id, Remote: by,
		Action: "Sallyport.Gateway/" + action + "/action", Detail: detail, Allowed: &allowed,
	})
}

// admin is the command line's end of the socket.
type admin struct {
	dir  string
	http *http.Client
}

// newAdmin makes no connection yet.
func newAdmin(dir string) admin {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		path, err := filepath.Abs(filepath.Join(dir, adminSocket))
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	}
	return admin{dir, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// do makes one call; in is nil for a GET. The answer's body is the caller's to close.
func (a admin) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, withHint(fmt.Errorf("reach the server of data folder %s: %w: %w", a.dir, err, access.ErrUnavailable),
			"is it running? name its folder with --data-dir, and run this command as the user that it runs as")
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var refusal adminError
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<16)).Decode(&refusal); err != nil {
		return nil, fmt.Errorf("the server answered %s: %w", resp.Status, access.ErrUnavailable)
	}
	err = errors.New(refusal.Message)
	for _, k := range adminKinds() {
		if k.status == resp.StatusCode {
			err = fmt.Errorf("%s: %w", refusal.Message, k.kind)
		}
	}
	if refusal.Hint != "" {
		err = withHint(err, "%s", refusal.Hint)
	}
	return nil, err
}

// call is do with JSON both ways; it returns the answer as it came, too.
func (a admin) call(ctx context.Context, method, path string, in, out any) (raw json.RawMessage, err error) {
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	resp, err := a.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&raw); err != nil {
		return nil, fmt.Errorf("the server's answer: %w: %w", err, access.ErrUnavailable)
	}
	return raw, json.Unmarshal(raw, out)
}
