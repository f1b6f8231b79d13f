package rbac

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
)

// DefaultImage is used when the options name none. There is no published
// image, and the name can never be somebody else's: ".invalid" is reserved
// (RFC 2606).
const DefaultImage = "image.invalid/sallyport:build-your-own"

//go:embed manifest.yaml.tmpl
var manifestText string

// ManifestOptions say what a cluster's owner installs.
type ManifestOptions struct {
	// Gateway is the address that the agent dials, HOST:PORT.
	Gateway string
	// ClusterID is the ARM id of the cluster's registration.
	ClusterID access.ResourceID
	// CAHash pins the gateway's CA: "sha256:" and 64 hexadecimal digits.
	CAHash string
	// JoinToken is the one-time token of the first enrolment. If empty no
	// Secret is written: an enrolled cluster's agent needs none.
	JoinToken string
	// Image of the agent; [DefaultImage] if empty.
	Image string
	// Prefix as in [Config]; [access.DefaultPrefix] if empty.
	Prefix string
	// Namespace of the agent; [access.AgentNamespace] if empty.
	Namespace string
	// Impersonation is the proxy's way; [Legacy] if empty.
	Impersonation Impersonation
	// Roles are the owner's ceiling: the agent can grant these and no more.
	Roles []access.Role
	// AllowRisky admits roles that are not in the shipped catalogue and hold
	// wildcards, secrets, nodes/proxy, impersonate, bind or escalate
	// (checklist, item 25).
	AllowRisky bool
}

var (
	// prefixForm keeps a prefix fit for object names, CEL strings and headers.
	prefixForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9:.-]{0,60}[a-z0-9])?$`)
	namespaceForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	hashForm      = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	imageForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$`)
	tokenForm     = regexp.MustCompile(`^[!-~]{1,1000}$`)
	hostForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:-]{0,252}$`)
	typeForm      = regexp.MustCompile(`^[A-Za-z0-9./]{1,200}$`)
	ruleForm      = regexp.MustCompile(`^[!-~]{0,253}$`)
)

// checkPrefix refuses prefixes that could not name objects, and those of
// Kubernetes' own users and groups: the prefix is a group the proxy may be.
func checkPrefix(prefix string) error {
	if !prefixForm.MatchString(prefix) || prefix == "system" || strings.HasPrefix(prefix, "system:") || strings.HasPrefix(prefix, "sallyport") {
		return fmt.Errorf("prefix %.80q must be 1 to 62 lower-case letters, digits, ':', '.' or '-', beginning and ending with a letter or digit, and not begin with \"system:\" or \"sallyport\"; such as %q: %w", prefix, access.DefaultPrefix, access.ErrInvalid)
	}
	return nil
}

// Manifest returns the YAML that installs the agent: every object with the
// reason for it. The error wraps [access.ErrInvalid] and names the option.
func Manifest(o ManifestOptions) ([]byte, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	t, err := template.New("manifest").Option("missingkey=error").Funcs(template.FuncMap{
		"toJson": toJSON, // by Helm's name: the chart executes this very text
	}).Parse(manifestText)
	if err != nil {
		return nil, fmt.Errorf("manifest template: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"O":                 o.data(),
		"RolePrefix":        rolePrefix(o.Prefix),
		"RoleBindingPrefix": roleBindingPrefix(o.Prefix),
		"UserPrefix":        access.User(o.Prefix, ""),
		"Group":             access.Group(o.Prefix),
		"ReconcilerUser":    "system:serviceaccount:" + o.Namespace + ":" + access.ReconcilerAccount,
		"ExtraBindingUID":   access.ExtraBindingUID,
		"ExtraSource":       access.ExtraSource,
	})
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	if err := readBack(out.Bytes(), o); err != nil {
		return nil, fmt.Errorf("the manifest written does not read back: %w", err)
	}
	return out.Bytes(), nil
}

// data is what the manifest's text calls O. The Helm chart makes the same of its
// values, in templates/_data.tpl.
func (o ManifestOptions) data() map[string]any {
	var roles []map[string]any
	for _, role := range o.Roles {
		var rules []map[string]any
		for _, r := range role.Rules {
			rules = append(rules, map[string]any{
				"verbs": r.Verbs, "apiGroups": r.APIGroups, "resources": r.Resources,
				"resourceNames": r.ResourceNames, "nonResourceURLs": r.NonResourceURLs,
			})
		}
		roles = append(roles, map[string]any{"sourceResourceType": role.SourceResourceType, "name": role.Name, "rules": rules})
	}
	data := map[string]any{
		"Gateway": o.Gateway, "ClusterID": o.ClusterID.String(), "CAHash": o.CAHash, "Image": o.Image,
		"Prefix": o.Prefix, "Impersonation": string(o.Impersonation), "Namespace": o.Namespace, "CreateNamespace": true, "Roles": roles,
		"JoinToken": o.JoinToken, "JoinSecret": "", "Replicas": proxies, "Budget": true,
		// Owners who need these use the chart.
		"Resources": nil, "NodeSelector": nil, "Tolerations": nil, "PriorityClass": "",
	}
	if o.JoinToken != "" {
		data["JoinSecret"] = "sallyport-join"
	}
	return data
}

// proxies is how many there are, so that one may stop.
const proxies = 2

// HelmValues returns the values, as YAML, with which the chart in
// deploy/helm/sallyport-agent installs what [Manifest] writes, but for the
// namespace, which Helm makes. The error is as Manifest's; a role that is not in
// the shipped catalogue is one, since the chart brings that alone.
func HelmValues(o ManifestOptions) ([]byte, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	shipped, err := access.Catalogue()
	if err != nil {
		return nil, err
	}
	var roles []string
	for _, role := range o.Roles {
		if !slices.ContainsFunc(shipped, func(s access.Role) bool { return reflect.DeepEqual(s, role) }) {
			return nil, fmt.Errorf("role %s is not a shipped one, and the chart has no others: %w", role.QualifiedName(), access.ErrInvalid)
		}
		roles = append(roles, role.QualifiedName())
	}
	values := map[string]any{
		"gateway": o.Gateway, "clusterId": o.ClusterID.String(), "caHash": o.CAHash, "image": o.Image, "prefix": o.Prefix, "impersonation": string(o.Impersonation), "roles": roles,
	}
	if o.JoinToken != "" {
		values["joinToken"] = o.JoinToken
	}
	return yaml.Marshal(values)
}

// fill sets what was left out and checks the rest.
func (o *ManifestOptions) fill() error {
	o.Prefix = cmp.Or(o.Prefix, access.DefaultPrefix)
	o.Namespace = cmp.Or(o.Namespace, access.AgentNamespace)
	o.Image = cmp.Or(o.Image, DefaultImage)
	o.Impersonation = cmp.Or(o.Impersonation, Legacy)
	return o.check()
}

func (o ManifestOptions) check() error {
	if err := checkPrefix(o.Prefix); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(o.Gateway)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || !hostForm.MatchString(host) {
		return fmt.Errorf("gateway %.80q must be HOST:PORT: %w", o.Gateway, access.ErrInvalid)
	}
	if !o.ClusterID.IsType(access.ClusterType) {
		return fmt.Errorf("cluster %.200q must be the id of a %s: %w", o.ClusterID.String(), access.ClusterType, access.ErrInvalid)
	}
	for _, c := range []struct {
		what, value, form string
		re                *regexp.Regexp
	}{
		{"CA hash", o.CAHash, "sha256: and 64 hexadecimal digits in lower case", hashForm},
		{"image", o.Image, "an image reference", imageForm},
		{"namespace", o.Namespace, "a DNS label", namespaceForm},
	} {
		if !c.re.MatchString(c.value) {
			return fmt.Errorf("%s %.80q must be %s: %w", c.what, c.value, c.form, access.ErrInvalid)
		}
	}
	if o.JoinToken != "" && !tokenForm.MatchString(o.JoinToken) {
		return fmt.Errorf("join token must be printable ASCII without spaces, at most 1000 characters: %w", access.ErrInvalid)
	}
	if err := cmp.Or(o.Impersonation.check(), o.Impersonation.checkVerbs(o.Roles)); err != nil {
		return err
	}
	return o.checkRoles()
}

func (o ManifestOptions) checkRoles() error {
	if len(o.Roles) == 0 {
		return fmt.Errorf("no role is named, so no binding could ever work; name at least one: %w", access.ErrInvalid)
	}
	shipped, err := access.Catalogue()
	if err != nil {
		return err
	}
	for _, role := range o.Roles {
		if err := access.CheckRoleName(role.Name); err != nil {
			return err
		}
		if !typeForm.MatchString(role.SourceResourceType) {
			return fmt.Errorf("role %q: source resource type %.80q must be letters, digits, '.' and '/': %w", role.Name, role.SourceResourceType, access.ErrInvalid)
		}
		for _, rule := range role.Rules {
			for _, s := range slices.Concat(rule.Verbs, rule.APIGroups, rule.Resources, rule.ResourceNames, rule.NonResourceURLs) {
				if !ruleForm.MatchString(s) {
					return fmt.Errorf("role %q: %.80q must be printable ASCII without spaces: %w", role.Name, s, access.ErrInvalid)
				}
			}
		}
		reviewed := slices.ContainsFunc(shipped, func(s access.Role) bool { return reflect.DeepEqual(s, role) })
		if risk := riskOf(role); risk != "" && !reviewed && !o.AllowRisky {
			return fmt.Errorf("role %s is not a shipped one and %s; it needs the owner's explicit consent (AllowRisky): %w", role.QualifiedName(), risk, access.ErrInvalid)
		}
	}
	return nil
}

// riskOf says what makes a role more than it looks, or "" (checklist, item 25).
func riskOf(role access.Role) string {
	for _, r := range role.Rules {
		if slices.Contains(slices.Concat(r.Verbs, r.APIGroups, r.Resources, r.NonResourceURLs), "*") {
			return `holds the wildcard "*"`
		}
		for _, verb := range []string{"impersonate", "bind", "escalate"} {
			if slices.Contains(r.Verbs, verb) {
				return fmt.Sprintf("holds the verb %q", verb)
			}
		}
		for _, resource := range []string{"secrets", "nodes/proxy"} {
			if slices.Contains(r.Resources, resource) {
				return fmt.Sprintf("holds %q", resource)
			}
		}
	}
	return ""
}

// toJSON writes a string or a list of strings.
func toJSON(v any) (string, error) {
	if list, ok := v.([]string); ok {
		return quoteList(list)
	}
	return quote(fmt.Sprint(v))
}

// quote writes a JSON string, which YAML reads as a double-quoted one: no value
// can end its line, start a comment or become another type.
func quote(s string) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func quoteList(list []string) (string, error) {
	quoted := make([]string, len(list))
	for i, s := range list {
		q, err := quote(s)
		if err != nil {
			return "", err
		}
		quoted[i] = q
	}
	return "[" + strings.Join(quoted, ", ") + "]", nil
}

// readBack decodes the YAML into the API's own types, unknown and repeated
// fields refused, and checks what matters most against the options.
func readBack(text []byte, o ManifestOptions) error {
	kinds := map[string]int{}
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var head struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal(doc, &head); err != nil {
			return err
		}
		object := map[string]any{
			"Namespace": &corev1.Namespace{}, "ServiceAccount": &corev1.ServiceAccount{}, "Secret": &corev1.Secret{},
			"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
			"ValidatingAdmissionPolicy":        &admissionv1.ValidatingAdmissionPolicy{},
			"ValidatingAdmissionPolicyBinding": &admissionv1.ValidatingAdmissionPolicyBinding{},
			"Deployment":                       &appsv1.Deployment{}, "PodDisruptionBudget": &policyv1.PodDisruptionBudget{},
		}[head.Kind]
		if object == nil {
			return fmt.Errorf("unexpected kind %q", head.Kind)
		}
		if err := yaml.UnmarshalStrict(doc, object); err != nil {
			return fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
		}
		kinds[head.Kind]++
		if role, ok := object.(*rbacv1.ClusterRole); ok && role.Name == CeilingRole {
			var want []rbacv1.PolicyRule
			for _, r := range o.Roles {
				want = append(want, policyRules(r.Rules)...)
			}
			if !slices.EqualFunc(role.Rules, want, func(a, b rbacv1.PolicyRule) bool { return a.String() == b.String() }) {
				return fmt.Errorf("ClusterRole %s differs from the roles asked for", CeilingRole)
			}
		}
	}
	want := map[string]int{
		"Namespace": 1, "ServiceAccount": 2, "ClusterRole": 3, "ClusterRoleBinding": 3,
		"ValidatingAdmissionPolicy": 2, "ValidatingAdmissionPolicyBinding": 2, "Deployment": 2,
		"PodDisruptionBudget": 1,
	}
	if o.JoinToken != "" {
		want["Secret"] = 1
	}
	if !reflect.DeepEqual(kinds, want) {
		return fmt.Errorf("it holds %v, not %v", kinds, want)
	}
	return nil
}
