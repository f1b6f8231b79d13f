package arm

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// FirstVersion is the oldest api-version of Microsoft.ContainerService that
// knows role bindings (spec/trusted-access.md 1.4). Later ones are never
// retired: retirement is what broke users (9, item 6).
const FirstVersion = "2022-04-02-preview"

// OperationVersion is the api-version written into operation URLs, the one of
// the recorded traffic (spec/trusted-access.md 2.1).
const OperationVersion = "2025-03-01"

var versionForm = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2})(-[a-z]{1,20})?$`)

// CheckAPIVersion reads the api-version of a query. It accepts any well-formed
// version, or with since not empty any from that date on, and returns it. The
// error is an [*Error] with status 400; resourceType and location are for its
// text.
func CheckAPIVersion(query url.Values, since, resourceType, location string) (string, error) {
	var given []string
	for name, values := range query {
		if strings.EqualFold(name, "api-version") {
			given = append(given, values...)
		}
	}
	if len(given) == 0 || len(given) == 1 && given[0] == "" {
		return "", &Error{Status: http.StatusBadRequest, Code: "MissingApiVersionParameter",
			Message: "The api-version query parameter (?api-version=) is required for all requests."}
	}
	version := given[0]
	supported := "any version of the form yyyy-mm-dd or yyyy-mm-dd-preview"
	if since != "" {
		supported += " from " + since + " on"
	}
	form := versionForm.FindStringSubmatch(version)
	valid := form != nil && len(given) == 1 // two could be read as either
	if valid {
		_, err := time.Parse(time.DateOnly, form[1])
		valid = err == nil
	}
	if !valid {
		return "", &Error{Status: http.StatusBadRequest, Code: "InvalidApiVersionParameter",
			Message: "The api-version '" + access.Clip(strings.Join(given, ","), maxQuoted) + "' is invalid. The supported versions are '" + supported + "'."}
	}
	if since != "" && form[1] < since[:len(time.DateOnly)] {
		return "", &Error{Status: http.StatusBadRequest, Code: "NoRegisteredProviderFound",
			Message: "No registered resource provider found for location '" + location + "' and API version '" + version + "' for type '" + resourceType +
				"'. The supported api-versions are '" + supported + "'. The supported locations are 'any'."}
	}
	return version, nil
}

// maxQuoted is how many bytes of a client's text an answer quotes.
const maxQuoted = 200
