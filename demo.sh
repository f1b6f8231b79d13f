#!/usr/bin/env bash
# The whole of Sallyport in a minute, on real parts: a server, a real kube-apiserver that the server cannot reach, its agent,
# and a cloud resource with nothing but its managed-identity token. Each step says what it does and checks its outcome; the
# first surprise ends the demo with the logs. Everything lives in a folder .demo.* that goes with success, and listens on loopback only. Run it by `make demo`.
#
# With CLUSTER_KUBECONFIG=FILE it uses that cluster instead of a new one: as its admin it installs the agent's objects, runs the
# agent here, and takes everything away again.
set -uo pipefail
cd "$(dirname "$0")"
PATH=$PWD/bin:$PATH
own=${CLUSTER_KUBECONFIG:+$(realpath "$CLUSTER_KUBECONFIG")}
unset KUBECONFIG KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT IDENTITY_ENDPOINT IDENTITY_HEADER SALLYPORT_OPERATOR
umask 077
D=$(mktemp -d "$PWD/.demo.XXXXXX") && mkdir "$D/home" || exit 1
export HOME=$D/home SALLYPORT_OPERATOR=$D/server/operator.json
pids=()

stop() {
	if [[ -n $own && -s $D/agent.yaml ]]; then
		admin delete --ignore-not-found --wait=false -f "$D/agent.yaml" >"$D/uninstall.log" 2>&1
		admin delete --ignore-not-found -n default service sallyport-demo >>"$D/uninstall.log" 2>&1
	fi
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
	wait 2>/dev/null
}
trap stop EXIT

n=0
step() { n=$((n + 1)); printf '%2d. %s\n' "$n" "$*"; }
note() { printf '      %s\n' "$*"; }
fail() {
	printf '\nSURPRISE in step %d: %s\n' "$n" "$*" >&2
	for log in "$D"/*.log; do
		printf '\n--- %s (last lines)\n' "${log##*/}" >&2
		tail -n 25 "$log" >&2
	done
	exit 1
}
# run OUT COMMAND...: the command must succeed.
run() {
	local out=$D/$1.log
	shift
	"$@" >"$out" 2>&1 || fail "exit $? from: $*"
}
# refused PATTERN COMMAND...: the command must fail and say so.
refused() {
	local want=$1
	shift
	"$@" >"$D/refused.log" 2>&1 && fail "was allowed: $*"
	grep -qE "$want" "$D/refused.log" || fail "refused, but not with /$want/: $*"
	note "refused: $(grep -E "$want" "$D/refused.log" | tail -n 1 | cut -c1-150)"
}
# await SECONDS WHAT COMMAND...: the command must succeed within the time.
await() {
	local until=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >"$D/await.log" 2>&1; do
		((SECONDS < until)) || fail "not in time: $what"
		sleep 0.05
	done
}
now() { date +%s%3N; }
admin() { kubectl --kubeconfig "${own:-$D/cluster/kubeconfig}" "$@"; }
source_kubectl() { kubectl --kubeconfig "$D/ml.kubeconfig" --cache-dir "$D/cache" "$@"; }

step "start the server: control plane, gateway and identity provider; no cluster exists yet"
sallyport server --data-dir "$D/server" --listen 127.0.0.1:0 --identity-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >"$D/server.out" 2>"$D/server.log" &
pids+=($!)
await 30 "the server is ready" grep -q ready "$D/server.out"
note "$(cat "$D/server.out")"

step "register the cluster and take the YAML that installs its agent; the owner's ceiling is mlworkload and inference-v1"
run register sallyport cluster register -n private -l eastus
sallyport agent manifest -n private --roles mlworkload,inference-v1 >"$D/agent.yaml" 2>"$D/manifest.log" || fail "no manifest"
note "$(grep -c '^kind:' "$D/agent.yaml") objects"

if [[ -n $own ]]; then
	step "take your cluster; the server never learns its address and CA"
	apiserver=$(admin config view --minify -o jsonpath='{.clusters[0].cluster.server}')
	admin config view --minify --raw --flatten -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d >"$D/cluster-ca.crt"
	[[ $apiserver == https://*:* && -s $D/cluster-ca.crt ]] || fail "the kubeconfig must name https://host:port and a CA"
	if admin get namespace sallyport-system >/dev/null 2>&1 || admin get clusterrole sallyport:reconciler >/dev/null 2>&1; then
		own='' # nothing of it is ours to take away
		fail "an agent is installed there already; the demo would overwrite it"
	fi
else
	step "start a private cluster: a real kube-apiserver, whose address and CA the server never learns"
	devcluster start --dir "$D/cluster" >"$D/cluster.out" 2>"$D/cluster.log" &
	pids+=($!)
	await 60 "the cluster is ready" grep -q ready "$D/cluster.out"
	apiserver=$(sed 's/ready //' "$D/cluster.out")
	cp "$D/cluster/ca.crt" "$D/cluster-ca.crt"
fi
note "$(admin version | tail -n 1), $apiserver"

step "its owner applies exactly that YAML"
run apply admin apply -f "$D/agent.yaml"

step "start the agent with the arguments of that YAML and the tokens of its two accounts, as its pods would"
pod() { # pod NAME: the projected volumes of that deployment, and its process
	mkdir -p "$D/$1/account" "$D/$1/join"
	admin create token "sallyport-$1" -n sallyport-system >"$D/$1/account/token" || fail "no token"
	admin create token "sallyport-$1" -n sallyport-system --audience sallyport >"$D/$1/account/gateway-token" || fail "no token"
	cp "$D/cluster-ca.crt" "$D/$1/account/ca.crt"
	mapfile -t args < <(admin get deployment "sallyport-$1" -n sallyport-system \
		-o jsonpath='{range .spec.template.spec.containers[0].args[*]}{@}{"\n"}{end}' | sed "s#/var/run/secrets/sallyport#$D/$1#")
	local hostport=${apiserver#https://}
	env -i PATH="$PATH" KUBERNETES_SERVICE_HOST="${hostport%:*}" KUBERNETES_SERVICE_PORT="${hostport##*:}" \
		sallyport "${args[@]}" >"$D/agent-$1.log" 2>&1 &
	pids+=($!)
}
mkdir -p "$D/reconciler/join"
admin get secret sallyport-join -n sallyport-system -o jsonpath='{.data.token}' | base64 -d >"$D/reconciler/join/token" || fail "no join token"
pod reconciler
pod proxy
connected() { sallyport cluster show -n private | grep 'connected since' | grep -vq 'not connected'; }
await 30 "the agent is connected" connected
! grep -rqsF "${apiserver#https://}" "$D/server" || fail "the server knows the API server's address"
note "connected; nothing in the server's folder names $apiserver"

step "create an ML workspace with a system-assigned identity; it gets its token from the managed-identity endpoint"
run resource sallyport resource create -n ml --type Microsoft.MachineLearningServices/workspaces --identity-file "$D/ml.identity"
workspace=$(sallyport resource show -n ml --type Microsoft.MachineLearningServices/workspaces -o id)
run kubeconfig sallyport kubeconfig --cluster-name private --resource "$workspace" --identity-file "$D/ml.identity" -f "$D/ml.kubeconfig"
token=$(sallyport token get --identity-file "$D/ml.identity") || fail "no token"
claims=$(cut -d. -f2 <<<"$token" | tr '_-' '/+' | base64 -d 2>/dev/null)
note "xms_mirid $(sed 's/.*"xms_mirid":"\([^"]*\)".*/\1/' <<<"$claims$([[ $claims == *\} ]] || echo '"}')" | cut -c1-140)"

step "before consent the workspace is refused"
refused 'no trusted access role binding' source_kubectl get services -n default

step "the owner consents: mlworkload"
begin=$(now)
run binding sallyport rolebinding create --cluster-name private -n ml -s "$workspace" -r Microsoft.MachineLearningServices/workspaces/mlworkload
source_kubectl get services -n default >"$D/first.log" 2>&1 || fail "the first request after consent did not work"
propagated=$(($(now) - begin))
run status sallyport rolebinding show --cluster-name private -n ml -o json
note "first answer $propagated ms after the command began"

step "kubectl through the gateway, as the workspace: create and list services"
run create source_kubectl create service clusterip sallyport-demo -n default --tcp=80:80
run list source_kubectl get services -n default
grep -q '^sallyport-demo ' "$D/list.log" || fail "the service is not listed"
note "$(grep '^sallyport-demo ' "$D/list.log")"

step "what mlworkload does not hold, Kubernetes refuses: a watch, and secrets"
refused 'cannot watch resource "services"' source_kubectl get services -n default --watch-only --request-timeout=10s
refused 'cannot list resource "secrets"' source_kubectl get secrets -n default

step "the cluster's own view: kubectl get clusterrolebinding | grep trustedaccess"
admin get clusterrolebinding | grep trustedaccess >"$D/grep.log" || fail "nothing found"
note "$(head -n 1 "$D/grep.log")"

step "update the binding to mlworkload,inference-v1 under a loop of GETs, none of which may fail"
(
	count=0
	while [[ ! -e $D/enough ]]; do
		source_kubectl get --raw /api/v1/namespaces/default/services >/dev/null 2>>"$D/loop-failures.log" || echo failed >>"$D/loop-failures.log"
		count=$((count + 1))
		echo "$count" >"$D/loop-count"
	done
) &
loop=$!
await 10 "the loop has begun" test -s "$D/loop-count"
run update sallyport rolebinding update --cluster-name private -n ml \
	-r Microsoft.MachineLearningServices/workspaces/mlworkload,Microsoft.MachineLearningServices/workspaces/inference-v1
enough() { (($(cat "$D/loop-count") >= 20)); }
await 30 "20 GETs" enough
: >"$D/enough"
wait "$loop"
[[ ! -s $D/loop-failures.log ]] || fail "GETs failed during the update"
note "$(cat "$D/loop-count") GETs, 0 failed"

step "now a watch runs: kubectl get services -w"
{
	source_kubectl get services -n default -w >"$D/watch.log" 2>&1
	now >"$D/watch-ended"
} &
await 10 "the watch shows what is there" grep -q '^sallyport-demo ' "$D/watch.log"
run label admin label service -n default sallyport-demo demo=seen
await 10 "the watch shows the change" sh -c "test \$(grep -c '^sallyport-demo ' '$D/watch.log') -ge 2"
note "$(grep -c '^sallyport-demo ' "$D/watch.log") events so far"

if [[ -z $own ]]; then # of another cluster we cannot read the audit log
	step "one request id joins the gateway's audit log and the API server's"
	id=$(grep '"stage":"decision"' "$D/server/audit.log" | grep '"method":"POST"' | sed 's/.*"id":"\([^"]*\)".*/\1/' | tail -n 1)
	[[ -n $id ]] || fail "no decision recorded"
	grep -q "\"auditID\":\"$id\"" "$D/cluster/audit.log" || fail "id $id is not in the API server's audit log"
	note "$id: $(grep "\"auditID\":\"$id\"" "$D/cluster/audit.log" | sed 's/.*"verb":"\([a-z]*\)".*"impersonatedUser":{"username":"\([^"]*\)".*/\1 as \2/' | head -n 1 | cut -c1-100)"
fi

step "withdraw the consent: the live watch is cut"
begin=$(now)
run delete sallyport rolebinding delete --cluster-name private -n ml --yes
deleted=$(($(now) - begin))
gone() { test -s "$D/watch-ended"; }
await 10 "the watch has ended" gone
ended=$(($(cat "$D/watch-ended") - begin))
if grep -q '"stage":"revoked".*"cut":1' "$D/server/audit.log"; then
	note "by the gateway, $ended ms after the command began"
else
	note "by the agent, before the gateway came to it, $ended ms after the command began"
fi
refused 'no trusted access role binding' source_kubectl get services -n default
none_left() { ! admin get clusterrole,clusterrolebinding -o name | grep -q aks:trustedaccess; }
await 10 "the cluster holds nothing of the binding any more" none_left
note "the cluster holds nothing of it any more"

printf '\nConsent to first answer: %d ms. Withdrawal to acknowledged: %d ms, to the live watch gone: %d ms (whole commands; Azure: minutes).\n' \
	"$propagated" "$deleted" "$ended"
printf 'demo: %d steps, no surprise\n' "$n"
stop
pids=()
rm -rf "$D"
