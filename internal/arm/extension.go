package arm

import (
	"strings"

	"github.com/sallyport/sallyport/access"
)

// ExtensionType is the full type of a cluster extension.
const ExtensionType = "Microsoft.KubernetesConfiguration/extensions"

// NewExtension shows e in a provisioning state (spec/identity.md 6.9). Protected
// settings are in nothing that is kept, and so cannot be shown. The status says
// what is true: the settings are there, and nothing was installed by them.
func NewExtension(e access.Extension, state string) (Document, error) {
	rest, err := document(e.Document)
	if err != nil {
		return Document{}, err
	}
	p := properties(rest)
	for name := range p {
		for _, ours := range []string{"provisioningState", "statuses", "errorInfo", "isSystemExtension", "configurationProtectedSettings"} {
			if equalFold(name, ours) {
				delete(p, name)
			}
		}
	}
	p["provisioningState"] = state
	p["configurationProtectedSettings"] = map[string]any{}
	p["isSystemExtension"] = false
	p["statuses"] = []any{map[string]any{
		"code": "NotInstalled", "displayStatus": "Recorded, not installed", "level": "Information", "time": FormatTime(e.Changed.At),
		"message": "Sallyport keeps the settings of extensions and installs nothing in the cluster.",
	}}
	setDefault(p, "autoUpgradeMinorVersion", true)
	setDefault(p, "releaseTrain", "Stable")
	if version, ok := p["version"]; ok {
		setDefault(p, "currentVersion", version)
	}
	setDefault(p, "configurationSettings", map[string]any{})
	return Document{
		own: []member{
			{"id", e.Parent.String() + "/providers/" + ExtensionType + "/" + e.Name},
			{"name", e.Name},
			{"type", ExtensionType},
			{"systemData", map[string]any{
				"createdBy": e.Created.ObjectID, "createdAt": FormatTime(e.Created.At),
				"lastModifiedBy": e.Changed.ObjectID, "lastModifiedAt": FormatTime(e.Changed.At),
			}},
		},
		rest: withIdentity(rest, "", nil, nil),
	}, nil
}

// ExtensionKind reads properties.extensionType of a document, "" for none.
func ExtensionKind(doc map[string]any) string {
	for name, value := range doc {
		if p, ok := value.(map[string]any); ok && equalFold(name, "properties") {
			for inner, kind := range p {
				if text, ok := kind.(string); ok && equalFold(inner, "extensionType") {
					return strings.TrimSpace(text)
				}
			}
		}
	}
	return ""
}
