{{- /*
What agent.yaml works with, from the values; internal/rbac/manifest.go makes the
same for `sallyport agent manifest`, and a test compares what comes out.
*/ -}}
{{- define "sallyport.data" -}}
{{- $v := .Values -}}
{{- if and $v.joinToken $v.existingSecret }}{{ fail "joinToken and existingSecret: give one of them" }}{{ end -}}
{{- if and (not $v.createNamespace) (ne .Release.Namespace "sallyport-system") -}}
  {{- fail (printf "the agent lives in namespace sallyport-system, not %q (hint: --namespace sallyport-system --create-namespace)" .Release.Namespace) -}}
{{- end -}}
{{- $catalogue := .Files.Get "files/roles.json" | fromJsonArray -}}
{{- $names := list -}}
{{- range $catalogue }}{{ $names = append $names (printf "%s/%s" .sourceResourceType .name) }}{{ end -}}
{{- $roles := list -}}
{{- if and (eq (len $v.roles) 1) (eq (lower (first $v.roles)) "all") -}}
  {{- $roles = $catalogue -}}
{{- else -}}
  {{- range $name := $v.roles -}}
    {{- $found := list -}}
    {{- range $catalogue -}}
      {{- if or (eq (lower $name) (lower .name)) (eq (lower $name) (lower (printf "%s/%s" .sourceResourceType .name))) }}{{ $found = append $found . }}{{ end -}}
    {{- end -}}
    {{- if ne (len $found) 1 }}{{ fail (printf "%d roles are called %q; the roles are: %s; or all" (len $found) $name (join ", " $names)) }}{{ end -}}
    {{- if not (has (first $found) $roles) }}{{ $roles = append $roles (first $found) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- $secret := $v.existingSecret -}}
{{- if $v.joinToken }}{{ $secret = "sallyport-join" }}{{ end -}}
{{- $_ := set . "O" (dict
  "Gateway" $v.gateway "ClusterID" $v.clusterId "CAHash" $v.caHash "Image" $v.image
  "Prefix" $v.prefix "Impersonation" $v.impersonation "Namespace" "sallyport-system" "CreateNamespace" $v.createNamespace "Roles" $roles
  "JoinToken" $v.joinToken "JoinSecret" $secret
  "Replicas" (int $v.replicas) "Budget" (and $v.podDisruptionBudget (gt (int $v.replicas) 1))
  "Resources" $v.resources "NodeSelector" $v.nodeSelector "Tolerations" $v.tolerations "PriorityClass" $v.priorityClass) -}}
{{- $_ := set . "RolePrefix" (print $v.prefix "role:") -}}
{{- $_ := set . "RoleBindingPrefix" (print $v.prefix "rolebinding:") -}}
{{- $_ := set . "UserPrefix" (print $v.prefix ":") -}}
{{- $_ := set . "Group" $v.prefix -}}
{{- $_ := set . "ReconcilerUser" "system:serviceaccount:sallyport-system:sallyport-reconciler" -}}
{{- $_ := set . "ExtraBindingUID" "sallyport.dev/binding-uid" -}}
{{- $_ := set . "ExtraSource" "sallyport.dev/source" -}}
{{- end -}}
