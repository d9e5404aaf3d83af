package status

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

// TraceWait adds spans to the trace that Caddy's directive tracing has begun for a request: one for the wait for a token
// and, inside it, one for each token call that ended during the wait. Requests that wait for the same call each have its
// span in their traces. The attributes follow OpenTelemetry's semantic conventions for HTTP clients, and none is secret.
func (c *Credential) TraceWait(ctx context.Context, began time.Time, how Served) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return
	}
	tracer := parent.TracerProvider().Tracer("github.com/tokenproxy/caddy-token-proxy")
	ctx, wait := tracer.Start(ctx, "token_proxy wait", trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String("token_proxy.credential", c.Name),
		attribute.String("token_proxy.served", how.String()),
	))
	if how == ServedFailed {
		wait.SetStatus(codes.Error, "")
	}
	seen, _ := c.record.snapshot()
	for _, call := range seen.callsSince(began) {
		c.traceCall(ctx, tracer, call)
	}
	wait.End()
}

// traceCall adds the span of a token call.
func (c *Credential) traceCall(ctx context.Context, tracer trace.Tracer, call Occurrence) {
	duration := time.Duration(call.Duration * float64(time.Second))
	_, span := tracer.Start(ctx, "token_proxy fetch",
		trace.WithTimestamp(call.At.Add(-duration)),
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("token_proxy.credential", c.Name),
			attribute.String("token_proxy.provider", c.Provider),
		))
	span.SetAttributes(serverAttributes(c.Endpoint)...)
	if call.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", call.Status))
	}
	if call.Outcome != Obtained {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(attribute.String("error.type", string(call.Outcome)))
	}
	span.End(trace.WithTimestamp(call.At))
}

// serverAttributes returns the attributes for the host and, if endpointHost has one, the port.
func serverAttributes(endpointHost string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(endpointHost)
	if err != nil { // without a port
		return []attribute.KeyValue{attribute.String("server.address", strings.Trim(endpointHost, "[]"))}
	}
	number, _ := strconv.Atoi(port) // a URL's port is a number, so this cannot fail
	return []attribute.KeyValue{attribute.String("server.address", host), attribute.Int("server.port", number)}
}
