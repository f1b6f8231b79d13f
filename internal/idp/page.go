package idp

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageFiles embed.FS

// page is what a person sees: an answer that is HTML.
type page struct {
	Title   string
	Text    string            // a sentence or two
	Warning string            // what was wrong with the last try
	Form    bool              // shows a form, with the fields below
	Action  string            // where it is posted to
	Hidden  map[string]string // sealed, or of the request
	Code    bool              // asks for a device's code
	SignIn  bool              // asks for name and password
	Login   string            // the name to begin with
	Buttons []button
	Auto    bool   // the form is posted at once, by script
	Origin  string // besides ours, to which a form may lead

	status   int
	redirect string // instead of all that
}

type button struct{ Value, Text string }

const pageStyle = `body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:12vh auto;padding:0 1rem}` +
	`label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}input{margin:.2rem 0 1rem;padding:.5rem}` +
	`button{margin:.6rem 0;padding:.6rem}.warning{color:#a00}`

const pageScript = `document.forms[0].submit()`

// writePage sends a page. It has no script but the one that posts a form on,
// no cookie, loads nothing, and cannot be framed. Nobody's session is in the
// browser, so no other page can act in a user's name: each form carries either
// the password itself or what was sealed for who has just shown it.
func writePage(w http.ResponseWriter, pg page) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	if pg.redirect != "" {
		h.Set("Location", pg.redirect)
		w.WriteHeader(http.StatusFound)
		return
	}
	leads := "'self'"
	if pg.Origin != "" {
		leads += " " + pg.Origin
	}
	policy := "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action " + leads + "; style-src " + hashSource(pageStyle)
	if pg.Auto {
		policy += "; script-src " + hashSource(pageScript)
	}
	h.Set("Content-Security-Policy", policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	var out bytes.Buffer
	t, err := template.ParseFS(pageFiles, "page.html")
	if err == nil {
		err = t.Execute(&out, struct {
			page
			Style  template.CSS
			Script template.JS
		}{pg, pageStyle, pageScript})
	}
	if err != nil { // the template is ours and tested
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if pg.status == 0 {
		pg.status = http.StatusOK
	}
	w.WriteHeader(pg.status)
	_, _ = out.WriteTo(w) // the client has gone; nobody is left to tell
}

func hashSource(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
