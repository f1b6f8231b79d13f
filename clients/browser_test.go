package clients_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// browserMain is the person at the keyboard. "browser URL" is what a program
// starts to have somebody sign in; "browser COMMAND ARG..." runs a program that
// tells somebody to open a page and enter a code, and does as it says.
func browserMain() {
	var err error
	if strings.HasPrefix(os.Args[1], "https://") {
		err = browse(os.Args[1])
	} else {
		err = runAndObey(os.Args[1], os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

func instruction() *regexp.Regexp {
	return regexp.MustCompile(`(?s)(https://\S+).*code\s+([A-Z0-9-]{6,})`)
}

func runAndObey(name string, args []string) error {
	child := exec.Command(name, args...)
	child.Stdout = os.Stdout
	stderr, err := child.StderrPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stderr)
	obeyed := errors.New("it never told us a page and a code")
	for lines.Scan() {
		fmt.Fprintln(os.Stderr, lines.Text())
		if found := instruction().FindStringSubmatch(lines.Text()); found != nil && obeyed != nil {
			if obeyed = browse(found[1] + "?otc=" + url.QueryEscape(found[2])); obeyed != nil {
				break
			}
		}
	}
	if obeyed != nil {
		return errors.Join(obeyed, child.Process.Kill(), child.Wait())
	}
	return child.Wait()
}

func enterDeviceCode(_ context.Context, m azidentity.DeviceCodeMessage) error {
	return browse(m.VerificationURL + "?otc=" + url.QueryEscape(m.UserCode))
}

// browse opens a page, and fills in and sends every form it is shown, as PERSON
// with PERSON_PASSWORD, until a page has none.
func browse(address string) error {
	client, err := newBrowser()
	if err != nil {
		return err
	}
	resp, err := client.Get(address)
	for range 10 {
		if err != nil {
			return err
		}
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s %w\n%s", resp.Request.URL, resp.Status, err, page)
		}
		action, form, ok := fillIn(string(page))
		if !ok {
			return nil
		}
		to, err := resp.Request.URL.Parse(action)
		if err != nil {
			return err
		}
		if resp, err = client.PostForm(to.String(), form); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: one form after another", address)
}

// fillIn reads the page's form and answers it.
func fillIn(page string) (action string, form url.Values, ok bool) {
	found := regexp.MustCompile(`<form method="post" action="([^"]*)"`).FindStringSubmatch(page)
	if found == nil {
		return "", nil, false
	}
	form = url.Values{}
	attribute := func(tag, name string) string {
		value := regexp.MustCompile(` ` + name + `="([^"]*)"`).FindStringSubmatch(tag)
		if value == nil {
			return ""
		}
		return html.UnescapeString(value[1])
	}
	for _, tag := range regexp.MustCompile(`<(?:input|button) [^>]*>`).FindAllString(page, -1) {
		name, value := attribute(tag, "name"), attribute(tag, "value")
		switch {
		case name == "username":
			value = os.Getenv("PERSON")
		case name == "password":
			value = os.Getenv("PERSON_PASSWORD")
		case form.Has(name): // the first button is yes
			continue
		}
		form.Set(name, value)
	}
	return html.UnescapeString(found[1]), form, true
}

// newBrowser believes what the child's CA file holds, and the server's own
// address, which device codes are entered at.
func newBrowser() (*http.Client, error) {
	roots := x509.NewCertPool()
	for _, path := range []string{os.Getenv("SSL_CERT_FILE"), filepath.Join(filepath.Dir(os.Getenv("SALLYPORT_OPERATOR")), "ca.crt")} {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(pem)
	}
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}}, nil
}
