{{/* Denies values that values.schema.json cannot describe, or not in a sentence. */}}
{{- define "token-proxy.checks" -}}
{{- $gateway := .Values.gateway -}}
{{- if not (or $gateway.enabled .Values.injector.enabled .Values.monitoring.prometheusRule.enabled .Values.monitoring.dashboard.enabled) }}
{{- fail "The release would be empty. Set gateway.enabled or injector.enabled." }}
{{- end }}
{{- if and $gateway.enabled .Values.injector.enabled }}
{{- fail "The gateway and the injector cannot be in one release. The release of the injector sets the image of all injected sidecars, which have the Secrets of all teams. Install the injector in a namespace of its own, which only the administrator of the cluster can change." }}
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled (not $gateway.enabled) }}
{{- fail "monitoring.podMonitor scrapes the gateway. Set gateway.enabled, or disable it." }}
{{- end }}
{{- if .Values.injector.enabled }}
{{- if semverCompare "<1.34.0-0" .Capabilities.KubeVersion.Version }}
{{- fail (printf "The injector requires Kubernetes 1.36, or 1.34 with the feature gate MutatingAdmissionPolicy. This cluster has %s." .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- end }}
{{- if $gateway.enabled }}
{{- include "token-proxy.checkGateway" . }}
{{- end }}
{{- end }}

{{- define "token-proxy.checkGateway" -}}
{{- $gateway := .Values.gateway -}}
{{- $name := include "token-proxy.name" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,54}[a-z0-9])?$" $name) }}
{{- fail (printf "The name of the gateway, %q, cannot be the name of a Service. It begins with a letter, and has lower-case letters, digits and hyphens, at most 56. Choose another name for the release, or set fullnameOverride." $name) }}
{{- end }}
{{- if not $gateway.credential.secretName }}
{{- fail "gateway.credential.secretName is missing. Set it to the name of the Secret with the id and the secret of the client." }}
{{- end }}
{{- if not (trim $gateway.credential.options) }}
{{- fail "gateway.credential.options is missing. Set it to the lines of the credential, such as provider, client_id, client_secret and api_hosts." }}
{{- end }}
{{- if not $gateway.sites }}
{{- fail "gateway.sites is missing. Set the port and the upstream of at least one API." }}
{{- end }}
{{- if not $gateway.clients }}
{{- fail "gateway.clients is missing. Set it to the networks of the pods, such as 10.244.0.0/16." }}
{{- end }}
{{- range $gateway.clients }}
{{- if not (regexMatch "^([0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2})?|[0-9a-fA-F:]*:[0-9a-fA-F:.]*(/[0-9]{1,3})?)$" .) }}
{{- fail (printf "gateway.clients: %q is neither an address nor a CIDR range such as 10.244.0.0/16." .) }}
{{- end }}
{{- if hasSuffix "/0" . }}
{{- fail (printf "gateway.clients: %s admits every address. Set the networks of the pods." .) }}
{{- end }}
{{- end }}
{{- $ports := list }}
{{- range $gateway.sites }}
{{- $port := int .port }}
{{- if has $port (list 2020 8082) }}
{{- fail (printf "gateway.sites: port %d is taken. The gateway uses 8082 for the probes and 2020 for the metrics." $port) }}
{{- end }}
{{- if has $port $ports }}
{{- fail (printf "gateway.sites: two sites have the port %d. Give each API a port of its own." $port) }}
{{- end }}
{{- $ports = append $ports $port }}
{{- if contains "@" .upstream }}
{{- fail (printf "gateway.sites, port %d: the URL of upstream contains a user name or a password. Helm stores all values in the cluster, and they must not contain a secret." $port) }}
{{- end }}
{{- if not (regexMatch "^https://[^/?#@{}\\s]+$" .upstream) }}
{{- fail (printf "gateway.sites: the upstream %q is not https:// with a host, as in https://api.example.com. A path belongs to the requests of the pods. The gateway sends tokens over https:// only." .upstream) }}
{{- end }}
{{- include "token-proxy.checkLines" (list (printf "gateway.sites, port %d" $port) (.options | default "")) }}
{{- end }}
{{- include "token-proxy.checkLines" (list "gateway.credential.options" $gateway.credential.options) }}
{{- include "token-proxy.checkLines" (list "gateway.share.options" $gateway.share.options) }}
{{- if $gateway.share.enabled }}
{{- if not $gateway.share.secretName }}
{{- fail "gateway.share.secretName is missing. Set it to the name of the Secret with the keys and the password of Redis." }}
{{- end }}
{{- if not $gateway.share.keys }}
{{- fail "gateway.share.keys is missing. Name at least one key of the Secret that seals the token." }}
{{- end }}
{{- /* The messages of the schema would contain the value, which can be a secret by mistake. */}}
{{- range prepend $gateway.share.keys ($gateway.share.passwordKey | default "none") }}
{{- if or (not (regexMatch "^[-._a-zA-Z0-9]+$" .)) (regexMatch "^[0-9a-fA-F]{64}$" .) }}
{{- fail "gateway.share.keys and passwordKey are the names of keys of the Secret, such as redis-password. A value is not such a name. Helm stores all values in the cluster, and they must not contain a secret." }}
{{- end }}
{{- end }}
{{- if not (regexMatch "^[^\\s{}/\"`#][^\\s{}/]*:[0-9]+$" $gateway.share.address) }}
{{- fail "gateway.share.address is not <host>:<port>, such as token-proxy-redis:6379. The password is a key of the Secret." }}
{{- end }}
{{- if not $gateway.share.to }}
{{- fail "gateway.share.to is missing. An empty list would permit connections to all addresses. Set where Redis is, as in a NetworkPolicy." }}
{{- end }}
{{- end }}
{{- range $gateway.networkPolicy.egress }}
{{- if not .to }}
{{- fail "gateway.networkPolicy.egress: a rule has no destination in `to`. It would permit connections to all addresses, also to the metadata service of the cloud." }}
{{- end }}
{{- end }}
{{- /* A label or annotation with the same name would replace that of the chart. */}}
{{- range $label := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "token-proxy" }}
{{- if hasKey ($gateway.podLabels | default dict) $label }}
{{- fail (printf "gateway.podLabels: the chart itself sets %s, by which the Deployment, the Service and the policies find the replicas. Remove it." $label) }}
{{- end }}
{{- end }}
{{- if hasKey ($gateway.podAnnotations | default dict) "checksum/caddyfile" }}
{{- fail "gateway.podAnnotations: the chart itself sets checksum/caddyfile, with which a changed Caddyfile starts a rollout. Remove it." }}
{{- end }}
{{- if not .Values.monitoring.from }}
{{- fail "monitoring.from is missing. An empty list would permit all pods of the cluster to read the metrics. Set where Prometheus is, as in a NetworkPolicy." }}
{{- end }}
{{- end }}

{{/*
Denies secrets in the lines of a block of the Caddyfile, and lines that end the block. Arguments: the name of the value, the
lines.
*/}}
{{- define "token-proxy.checkLines" -}}
{{- $value := index . 0 -}}
{{- $depth := 0 -}}
{{- range splitList "\n" (index . 1) }}
{{- $line := trim . }}
{{- $words := regexSplit "\\s+" $line -1 }}
{{- $option := first $words }}
{{- if regexMatch "[\\x00-\\x08\\x0a-\\x1f\\x7f\\x{85}\\x{2028}\\x{2029}]" $line }}
{{- fail (printf "%s: a line contains a control character, which would end it." $value) }}
{{- end }}
{{- if not (hasPrefix "#" $line) }}
{{- if eq $option "}" }}{{ $depth = sub $depth 1 }}{{ end }}
{{- if lt (int $depth) 0 }}
{{- fail (printf "%s: a line is }, and no line before it opens this block. The chart itself closes the block around these lines." $value) }}
{{- end }}
{{- if eq (last $words) "{" }}{{ $depth = add $depth 1 }}{{ end }}
{{- end }}
{{- if has $option (list "client_secret" "password" "sentinel_password" "key" "signing_key" "client_certificate" "client_certificate_key") }}
{{- range rest $words }}
{{- if not (regexMatch "^\"?\\{file\\./run/secrets/[^{}]*\\}\"?$" .) }}
{{- fail (printf "%s: %s is not a file of a Secret, such as {file./run/secrets/token-proxy/%s}. Helm stores all values in the cluster, and they must not contain a secret." $value $option (replace "_" "-" $option)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (regexMatch "(?i)^(param|json_param|header|header_up)\\s+[\"`]?\\+?[a-z0-9._-]*(secret|passw|token|assertion|authorization|cookie|api-?_?key)[a-z0-9._-]*[\"`]?\\s+\\S" $line) (not (contains "{" $line)) }}
{{- fail (printf "%s: %s %s has a literal value, which looks like a secret. Use a file of a Secret, such as {file./run/secrets/token-proxy/name}." $value $option (index $words 1)) }}
{{- end }}
{{- if regexMatch "://[^/\\s]*@" $line }}
{{- fail (printf "%s: the URL of %s contains a user name or a password. Helm stores all values in the cluster, and they must not contain a secret." $value $option) }}
{{- end }}
{{- end }}
{{- if $depth }}
{{- fail (printf "%s: a line ends with {, and no line } closes this block." $value) }}
{{- end }}
{{- end }}
