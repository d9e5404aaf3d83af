{{/* The Caddyfile of the gateway. ../../gateway/gateway.caddyfile is an example of it. */}}
{{- define "token-proxy.caddyfile" -}}
{{- $gateway := .Values.gateway -}}
{{- $name := include "token-proxy.name" . -}}
{{- $credential := $gateway.credential.name | default $name -}}
{
	# Only the gateway's container has this socket. `tokens list` uses it.
	admin unix//run/token-proxy/admin.sock
	persist_config off

	# A replica that Kubernetes is about to stop still gets requests for some seconds, until all nodes know about it. It
	# serves for {{ $gateway.drainSeconds }} s as before, and then completes the requests that it has.
	shutdown_delay {{ $gateway.drainSeconds }}s
	grace_period {{ $gateway.graceSeconds }}s

	# The sites speak HTTP/1.1 only, because the other versions need TLS.
	servers {
		protocols h1
	}
	# Caddy warns that the admin API is on an open interface. It is not, because it is on a unix socket.
	log {
		exclude admin
	}

	token_proxy {
{{- with $gateway.share }}{{ if .enabled }}
		# All replicas use one token. Without Redis, each replica fetches its own.
		share {
			store redis {
				address {{ .address }}
{{- with .username }}
				username {{ . }}
{{- end }}
{{- with .passwordKey }}
				password {file./run/secrets/token-proxy-share/{{ . }}}
{{- end }}
{{- include "token-proxy.lines" (list .options 4) }}
			}
			key{{ range .keys }} {file./run/secrets/token-proxy-share/{{ . }}}{{ end }}
		}
{{- end }}{{ end }}
		credential {{ $credential }} {
{{- include "token-proxy.lines" (list $gateway.credential.options 3) }}
		}
	}
}

# A pod would lose the request that it sends on a kept connection while the replica closes it. So the replica announces
# the end of the connection in its last answers.
(draining) {
	@draining {
		vars {http.shutting_down} true
		not header Upgrade *
	}
	header @draining Connection close
}
{{ $hosts := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace)
	(printf "%s.%s.svc.%s" $name .Release.Namespace $gateway.clusterDomain) }}
{{- range $site := $gateway.sites }}
{{ range $i, $host := $hosts }}{{ if $i }}, {{ end }}http://{{ $host }}:{{ $site.port }}{{ end }} {
	import draining
	token_proxy {{ $credential }} {{ $site.upstream }} {
		# The network of the pods. The NetworkPolicy decides which pods of it may connect.
		clients {{ join " " $gateway.clients }}
{{- include "token-proxy.lines" (list ($site.options | default "") 2) }}
	}
}
{{ end }}
# A page in a browser can give its own name the address of the gateway. So the sites above have names, and others are
# denied.
{{ range $i, $site := $gateway.sites }}{{ if $i }}, {{ end }}http://:{{ $site.port }}{{ end }} {
	respond "The gateway serves no host of this name. Use the name of its Service." 421
}

# For the probes only. They come from the node.
http://:8082 {
	handle /ready {
		token_proxy_ready
	}
	handle {
		respond 404
	}
}

# For Prometheus only.
http://:2020 {
	handle /metrics {
		metrics
	}
	handle {
		respond 404
	}
}
{{ end }}
