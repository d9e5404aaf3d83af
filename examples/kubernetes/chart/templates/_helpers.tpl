{{/* The name of the gateway's objects. */}}
{{- define "token-proxy.name" -}}
{{- .Values.fullnameOverride | default .Release.Name }}
{{- end }}

{{- define "token-proxy.selector" -}}
app.kubernetes.io/name: token-proxy-gateway
app.kubernetes.io/instance: {{ include "token-proxy.name" . }}
{{- end }}

{{- define "token-proxy.labels" -}}
{{ include "token-proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "token-proxy.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/*
Further lines of a block, as `caddy fmt` writes them, because Caddy warns of others. Arguments: the lines, the number of tabs.
*/}}
{{- define "token-proxy.lines" -}}
{{- $depth := index . 1 | int -}}
{{- range splitList "\n" (index . 0) }}
{{- $line := trim . }}
{{- if not (regexMatch "[\"`]" $line) }}{{ $line = regexReplaceAll "\\s+" $line " " }}{{ end }}
{{- if hasPrefix "}" $line }}{{ $depth = sub $depth 1 }}{{ end }}
{{- if $line }}{{ print "\n" (repeat (int $depth) "\t") $line }}{{ end }}
{{- if and (hasSuffix "{" $line) (not (hasPrefix "#" $line)) }}{{ $depth = add $depth 1 }}{{ end }}
{{- end }}
{{- end }}
