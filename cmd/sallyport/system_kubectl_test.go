package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemKubectl runs scripts that a user could type, with kubectl and Helm,
// through the gateway and straight against the API server: both must print the
// same.
func TestSystemKubectl(t *testing.T) {
	s := newBound(t)
	ways := s.ways()
	for _, c := range slices.Concat(kubectlReads(), kubectlWrites(), kubectlWorkloads(), helmReleases()) {
		t.Run(c.name, func(t *testing.T) { bothWays(t, ways, c.script, c.says...) })
	}
	t.Run("verbose", func(t *testing.T) { s.testVerbose(t, ways[0]) })
	t.Run("refused", func(t *testing.T) { s.testKubectlRefused(t, ways[0]) })
}

// kubectlScript is one that must print the same both ways, and among it what it
// says.
type kubectlScript struct {
	name   string
	script string
	says   []string
}

func kubectlReads() []kubectlScript {
	return []kubectlScript{
		{"get", `
			kubectl create configmap one --from-literal=a=1
			kubectl create configmap two --from-literal=a=2
			kubectl label configmap two tier=web
			kubectl get cm,secret,svc -o wide --show-labels
			kubectl get cm one -o yaml --show-managed-fields
			kubectl get cm -o json
			kubectl get cm -o custom-columns=NAME:.metadata.name,A:.data.a --sort-by=.data.a
			kubectl get cm -l 'tier notin (web)' -o name
			kubectl get cm --field-selector metadata.name=one -o name
			kubectl get cm --field-selector data.a=1
			kubectl get cm none
			kubectl get nothings
			kubectl describe cm one`,
			[]string{"configmap/two labeled", `a: "1"`, "tier=web", "configmap/one\n", `"data.a" is not a known field selector`, `configmaps "none" not found`, `doesn't have a resource type "nothings"`, "Name: one"}},
		{"lists in chunks", `
			for i in 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29; do
				printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: many-%s, labels: {many: "yes"}}\n---\n' $i
			done | kubectl create -f - -o name
			kubectl get cm -l many=yes --chunk-size=7 -o name -v=6 >names 2>log
			cat names
			grep -c 'configmaps?continue=.*200 OK' log
			kubectl get --raw "/api/v1/namespaces/$NS/configmaps?limit=2&continue=bad"
			kubectl delete cm -l many=yes -o name | wc -l`,
			[]string{"configmap/many-29", "\n2\n", "continue key is not valid", "\n20\n"}},
		{"discovery", `
			kubectl api-resources
			kubectl api-resources --namespaced=false --api-group=rbac.authorization.k8s.io -o wide
			kubectl api-versions
			kubectl version -o yaml
			kubectl cluster-info
			kubectl explain pod.spec.containers.lifecycle
			kubectl explain deployment --recursive --api-version=apps/v1`,
			[]string{"flowschemas", "clusterrolebindings", "certificates.k8s.io/v1", "gitVersion: v1.36.3", "is running at", "preStop", "progressDeadlineSeconds"}},
		{"raw", `
			kubectl get --raw /readyz?verbose
			kubectl get --raw /openapi/v2 | wc -c
			kubectl get --raw /nothing
			echo '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"raw"}}' >raw.json
			kubectl create --raw /api/v1/namespaces/$NS/configmaps -f raw.json
			kubectl replace --raw /api/v1/namespaces/$NS/configmaps/raw -f raw.json
			kubectl delete --raw /api/v1/namespaces/$NS/configmaps/raw`,
			[]string{"[+]etcd ok", "the server could not find the requested resource", `"kind":"ConfigMap"`, `"status":"Success"`}},
		{"auth", `
			kubectl auth whoami -o yaml
			kubectl auth can-i --list
			kubectl auth can-i create pods --subresource=exec
			kubectl auth can-i get /metrics`,
			[]string{"username: aks:trustedaccess:ml", "- aks:trustedaccess\n", "sallyport.dev/binding-uid", "sallyport.dev/source", "/providers/Microsoft.MachineLearningServices/workspaces/ml", "yes\n"}},
	}
}

func kubectlWrites() []kubectlScript {
	return []kubectlScript{
		{"apply", `
			cm() { printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, labels: {app: a}}\ndata: {%s}\n' "$1"; }
			cm 'a: "1", b: "1"' | kubectl apply -f -
			cm 'a: "1", b: "1"' | kubectl apply -f -
			cm 'a: "2"' | kubectl diff -f - | grep '^[-+] '
			cm 'a: "2"' | kubectl apply -f - --dry-run=server -o jsonpath='{.data}'
			cm 'a: "2"' | kubectl apply -f -
			kubectl get cm applied -o jsonpath='{.data}'
			echo '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a_b"}}' | kubectl apply -f -
			echo '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}' | kubectl apply -f -`,
			[]string{"configmap/applied created", "unchanged", `- a: "1"`, `+ a: "2"`, `{"a":"2"}`, "a lowercase RFC 1123 subdomain", `unknown field "dta"`}},
		{"apply --server-side", `
			cm() { printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {%s}\n' "$1"; }
			cm 'a: "1"' | kubectl apply --server-side -f -
			cm 'a: "2"' | kubectl apply --server-side --field-manager=other -f -; echo "code $?"
			cm 'a: "2"' | kubectl diff --server-side --field-manager=other --force-conflicts -f - | grep '^[-+] '
			cm 'a: "2"' | kubectl apply --server-side --field-manager=other --force-conflicts -f -
			kubectl get cm ssa -o yaml --show-managed-fields`,
			[]string{"serverside-applied", `conflict with "kubectl": .data.a`, "code 1", `+ a: "2"`, "manager: other"}},
		{"patch", `
			kubectl create deployment patched --image=none
			kubectl patch deploy patched -p '{"spec":{"template":{"spec":{"containers":[{"name":"none","image":"strategic"}]}}}}'
			kubectl patch deploy patched --type=merge -p '{"metadata":{"labels":{"merge":"yes"}}}'
			kubectl patch deploy patched --type=json -p '[{"op":"test","path":"/spec/replicas","value":1},{"op":"replace","path":"/spec/replicas","value":5}]'
			kubectl patch deploy patched --type=json -p '[{"op":"test","path":"/spec/replicas","value":1}]'
			kubectl patch deploy patched --subresource=status --type=merge -p '{"status":{"replicas":5}}'
			kubectl get deploy patched -o yaml
			kubectl delete deploy patched`,
			[]string{"image: strategic", "merge: \"yes\"", "replicas: 5", "status:\n replicas: 5", "The request is invalid"}},
		{"create, replace, edit, delete", `
			echo text >file
			kubectl create secret generic s --from-file=file --from-literal=k=v -o name
			kubectl create -f - -o name <<-.
				{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}
			.
			kubectl create configmap c
			kubectl annotate cm c note=one
			kubectl annotate cm c note=two
			kubectl annotate cm c note=two --overwrite
			kubectl get cm c -o json | sed 's/"a": "1"/"a": "2"/' | kubectl replace -f -
			kubectl get cm c -o json | sed 's/"resourceVersion": ".*"/"resourceVersion": "1"/' | kubectl replace -f -
			kubectl get cm c -o json | kubectl replace --force -f -
			KUBE_EDITOR='sed -i s/two/three/' kubectl edit cm c
			kubectl get cm c -o jsonpath='{.data.a} {.metadata.annotations.note}'
			kubectl patch cm c --type=merge -p '{"metadata":{"finalizers":["example.com/stay"]}}'
			kubectl delete cm c --timeout=1s; echo "code $?"
			kubectl patch cm c --type=merge -p '{"metadata":{"finalizers":null}}'
			kubectl delete secret s --wait; kubectl get secret s`,
			[]string{"secret/s\n", `configmaps "c" already exists`, "--overwrite is false", "the object has been modified", "edited", "2 three", "timed out waiting for the condition", `secrets "s" not found`}},
		{"large", `
			head -c 1000000 /dev/zero | tr '\0' x >million
			kubectl create configmap large --from-file=million -o name
			kubectl get cm large -o jsonpath='{.data.million}' | cksum
			kubectl create secret generic large --from-file=million -o name
			kubectl create configmap larger --from-file=million --from-file=more=million
			head -c 3300000 /dev/zero >zero
			kubectl create secret generic largest --from-file=zero`,
			[]string{"configmap/large\n", "1000000\n", "secret/large\n", "may not be more than 1048576 bytes", "limit is 3145728"}},
		{"custom resources", `
			kubectl create -f - <<-.
				{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.$NS.example.com"},"spec":{
				"group":"$NS.example.com","scope":"Namespaced","names":{"plural":"things","singular":"thing","kind":"Thing","shortNames":["th"]},
				"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}],
				"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer","description":"How large it is."}}},
				"status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}]}}
			.
			kubectl wait --for=condition=Established crd/things.$NS.example.com --timeout=10s
			thing() { printf 'apiVersion: %s.example.com/v1\nkind: Thing\nmetadata: {name: t}\nspec: {size: %s}\n' $NS $1; }
			for i in 1 2 3 4 5 6 7 8 9; do thing 1 | kubectl apply -f - >out 2>&1 && break; done; cat out
			thing '"x"' | kubectl apply -f - --validate=false
			kubectl patch thing.$NS.example.com t --subresource=status --type=merge -p '{"status":{"phase":"good"}}'
			kubectl get things.$NS.example.com
			kubectl delete crd things.$NS.example.com --wait=false`,
			[]string{"condition met", "thing.NAMESPACE.example.com/t created", "must be of type integer", "NAME SIZE\nt 1\n"}},
	}
}

func kubectlWorkloads() []kubectlScript {
	return []kubectlScript{
		// No controller runs, so the status is the script's own.
		{"scale, rollout, wait", `
			kubectl create deployment web --image=none --replicas=2
			kubectl scale deploy web --current-replicas=2 --replicas=3
			kubectl scale deploy web --current-replicas=2 --replicas=4
			kubectl set image deploy web none=other
			kubectl set env deploy web A=1
			kubectl rollout status deploy web --timeout=1s
			kubectl wait --for=jsonpath='{.status.readyReplicas}'=3 deploy/web --timeout=10s &
			kubectl patch deploy web --subresource=status --type=merge -p \
				'{"status":{"observedGeneration":9,"replicas":3,"updatedReplicas":3,"readyReplicas":3,"availableReplicas":3,"conditions":[{"type":"Available","status":"True"}]}}' >/dev/null
			wait $!
			kubectl wait --for=condition=Available deploy/web --timeout=10s
			kubectl rollout status deploy web
			kubectl rollout restart deploy web
			kubectl rollout pause deploy web
			kubectl rollout history deploy web
			kubectl autoscale deploy web --max=5
			kubectl expose deploy web --port=80 --cluster-ip=None
			kubectl get deploy,hpa,svc -o name
			kubectl describe deploy web | grep -v '^Annotations'
			kubectl delete deploy,svc,hpa web`,
			[]string{"deployment.apps/web scaled", "Expected replicas to be 2, was 3", "timed out", "condition met", "successfully rolled out", "restarted", "horizontalpodautoscaler.autoscaling/web\n"}},
		{"pods", `
			kubectl run once --image=none --restart=Never -- sh -c 'echo hello; exit 3'
			kubectl wait --for=jsonpath='{.status.phase}'=Failed pod/once --timeout=20s
			kubectl logs once
			kubectl logs once --tail=1 --timestamps
			kubectl logs once -c other
			kubectl run typed --image=none --restart=Never --rm -i --quiet -- cat <<-.
				typed in
			.
			kubectl run idle --image=none
			kubectl wait --for=condition=Ready pod/idle --timeout=20s
			kubectl exec idle -- sh -c 'exit 7'; echo "code $?"
			kubectl debug idle --image=none --target=idle --quiet --attach=false
			kubectl events --types=Warning
			kubectl top pods; kubectl top nodes
			kubectl create sa robot
			kubectl create token robot | cut -d. -f1 | wc -l
			kubectl delete pod once idle --grace-period=0 --force`,
			[]string{"pod/once created", "condition met", "\nhello\n", "container other is not valid", "typed in", "code 7", "Metrics API not available", "\n1\n"}},
	}
}

// helmReleases installs what people install, by Helm.
func helmReleases() []kubectlScript {
	return []kubectlScript{{"helm", `
		mkdir -p web/templates
		printf 'apiVersion: v2\nname: web\nversion: 1.2.3\n' >web/Chart.yaml
		printf 'replicas: 1\n' >web/values.yaml
		cat >web/templates/all.yaml <<-.
			apiVersion: v1
			kind: ConfigMap
			metadata: {name: {{ .Release.Name }}-config}
			data: {revision: "{{ .Release.Revision }}"}
			---
			apiVersion: apps/v1
			kind: Deployment
			metadata: {name: {{ .Release.Name }}}
			spec:
			  replicas: {{ .Values.replicas }}
			  selector: {matchLabels: {app: web}}
			  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: none}]}}
		.
		helm install demo ./web -n $NS; echo "code $?"
		kubectl get deploy,cm demo demo-config -o name --ignore-not-found
		helm upgrade demo ./web -n $NS --set replicas=3; echo "code $?"
		kubectl get deploy demo -o jsonpath='{.spec.replicas}'
		helm history demo -n $NS
		helm get manifest demo -n $NS
		helm rollback demo 1 -n $NS; echo "code $?"
		kubectl get deploy demo -o jsonpath='{.spec.replicas}'
		helm list -n $NS
		helm install demo ./web -n $NS; echo "code $?"
		helm uninstall demo -n $NS; echo "code $?"
		kubectl get deploy,cm -l app.kubernetes.io/managed-by=Helm -o name`,
		[]string{"STATUS: deployed", "deployment.apps/demo\n", "replicas: 3", "Rollback was a success", "cannot reuse a name that is still in use", "release \"demo\" uninstalled", "code 0", "code 1"},
	}}
}

// testVerbose has kubectl say all it does. Its token is in none of that, and in
// none of our logs.
func (s *bound) testVerbose(t *testing.T, w *way) {
	token := s.ml.token(idp.DataPlaneAudience)
	stdout, stderr, err := kubectl(t, w.kubeconfig, "", "-v=10", "get", "configmaps")
	if err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	contains(t, "kubectl -v=10", stderr, "curl -v", "Audit-Id:", `"kind":"Table"`)
	payload := strings.Split(token, ".")[1] // what tokens of this source have in common begins like this
	for what, text := range map[string]string{"kubectl": stdout + stderr, "the server or agent": s.logs.String()} {
		if strings.Contains(text, payload[:40]) {
			t.Errorf("%s shows the token", what)
		}
	}
}

// testKubectlRefused is what the gateway does not let happen, in its words.
func (s *bound) testKubectlRefused(t *testing.T, w *way) {
	weak := s.source("weak")
	s.bind("private", "weak", weak.id, mlworkload)
	stranger := s.source("stranger")
	for _, c := range []struct {
		name, kubeconfig string
		args             []string
		says             string
	}{
		{"by the role", weak.kubeconfig("private"), []string{"get", "secrets"},
			`secrets is forbidden: User "aks:trustedaccess:weak" cannot list resource "secrets" in API group "" in the namespace "default"`},
		{"without consent", stranger.kubeconfig("private"), []string{"get", "services"}, "no trusted access role binding"},
		{"impersonation", w.kubeconfig, []string{"get", "services", "--as=system:admin"}, "nested impersonation is refused"},
	} {
		stdout, stderr, err := kubectl(t, c.kubeconfig, "", c.args...)
		if err == nil {
			t.Errorf("%s: worked: %s", c.name, stdout)
		}
		contains(t, c.name, stderr, c.says)
	}
	stdout, stderr, err := kubectl(t, weak.kubeconfig("private"), "", "auth", "can-i", "--list")
	if err != nil || strings.Contains(stdout, "secrets") {
		t.Errorf("can-i --list: %v, %s\n%s", err, stderr, stdout)
	}
	contains(t, "can-i --list", strings.Join(strings.Fields(stdout), " "), "services [] [] [create get list patch update delete]")
}
