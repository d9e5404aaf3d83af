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

{{/* Further lines of a block, indented. Arguments: the lines, the number of tabs. */}}
{{- define "token-proxy.lines" -}}
{{- $indent := print "\n" (repeat (index . 1 | int) "\t") -}}
{{- range splitList "\n" (index . 0 | trim) }}{{ if trim . }}{{ $indent }}{{ . | trimSuffix "\r" }}{{ end }}{{ end }}
{{- end }}
