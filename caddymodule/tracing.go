package caddymodule

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// traceWait adds two spans to the trace of a request that Caddy's tracing directive has begun: the wait for the token
// and, inside, the token call that it waited for. The call belongs to all who wait for it, so it is in the trace of
// each. Their attributes follow OpenTelemetry's semantic conventions for HTTP clients; none is secret.
func traceWait(ctx context.Context, c *Credential, began time.Time, a account) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return
	}
	tracer := parent.TracerProvider().Tracer("github.com/tokenproxy/caddy-token-proxy")
	ctx, wait := tracer.Start(ctx, "token_proxy wait", trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String("token_proxy.credential", a.credential),
		attribute.String("token_proxy.served", a.served),
	))
	if a.served == servedFailed {
		wait.SetStatus(codes.Error, "")
	}
	for _, call := range c.observation.callsSince(began) {
		traceCall(ctx, tracer, c, call)
	}
	wait.End()
}

func traceCall(ctx context.Context, tracer trace.Tracer, c *Credential, call occurrence) {
	duration := time.Duration(call.Duration * float64(time.Second))
	_, span := tracer.Start(ctx, "token_proxy fetch",
		trace.WithTimestamp(call.At.Add(-duration)),
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("token_proxy.credential", c.name),
			attribute.String("token_proxy.provider", c.providerName),
		))
	span.SetAttributes(serverAttributes(c.endpointHost)...)
	if call.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", call.Status))
	}
	if call.Outcome != outcomeObtained {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(attribute.String("error.type", string(call.Outcome)))
	}
	span.End(trace.WithTimestamp(call.At))
}

// serverAttributes tell host and port, if it is not the standard one, apart.
func serverAttributes(endpointHost string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(endpointHost)
	if err != nil { // no port
		return []attribute.KeyValue{attribute.String("server.address", strings.Trim(endpointHost, "[]"))}
	}
	number, _ := strconv.Atoi(port) // a URL's port is a number
	return []attribute.KeyValue{attribute.String("server.address", host), attribute.Int("server.port", number)}
}
