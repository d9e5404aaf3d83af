package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// found records the answer of a source in the state of the request.
func found(r *http.Request, name string, upstreams []*reverseproxy.Upstream) {
	if p, ok := r.Context().Value(proxiedKey{}).(*proxied); ok {
		p.found = append(p.found, foundUpstream{name, upstreams})
	}
}

// provisionDynamicUpstreams loads the dynamic sources before reverse_proxy does, and wraps them so that they record the names
// that they look up.
func (h *Handler) provisionDynamicUpstreams(ctx caddy.Context) error {
	if h.DynamicUpstreamsRaw == nil {
		return nil
	}
	var kind struct {
		Source string `json:"source"`
	}
	_ = json.Unmarshal(h.DynamicUpstreamsRaw, &kind) // if it fails, loading the module reports the mistake
	if kind.Source == "multi" {
		return h.provisionMulti(ctx)
	}
	mod, err := ctx.LoadModule(&h.Handler, "DynamicUpstreamsRaw")
	if err != nil {
		return fmt.Errorf("loading upstream source module: %w", err)
	}
	h.DynamicUpstreams = named(mod)
	return nil
}

// named wraps a source that looks up a name, so that it records that name. It returns any other source as it is.
func named(mod any) reverseproxy.UpstreamSource {
	switch source := mod.(type) {
	case *reverseproxy.AUpstreams:
		return aSource{source}
	case *reverseproxy.SRVUpstreams:
		return srvSource{source}
	default:
		return mod.(reverseproxy.UpstreamSource)
	}
}

// aSource is `dynamic a`.
type aSource struct{ *reverseproxy.AUpstreams }

// GetUpstreams implements reverseproxy.UpstreamSource. It replaces placeholders only once, so that it records the name
// that it looks up.
func (s aSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	a := *s.AUpstreams
	a.Name, a.Port = replaced(r, a.Name), replaced(r, a.Port)
	upstreams, err := a.GetUpstreams(r)
	found(r, a.Name, upstreams)
	return upstreams, err
}

// srvSource is `dynamic srv`. The embedded source has the cache and clears it.
type srvSource struct{ *reverseproxy.SRVUpstreams }

// GetUpstreams implements reverseproxy.UpstreamSource.
func (s srvSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	srv := *s.SRVUpstreams
	srv.Name = replaced(r, srv.Name)
	upstreams, err := srv.GetUpstreams(r)
	found(r, srv.Name, upstreams)
	return upstreams, err
}

func replaced(r *http.Request, text string) string {
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll(text, "")
}

// multiSource is `dynamic multi`. That of reverse_proxy does not export the sources that it has loaded.
type multiSource struct {
	sources []reverseproxy.UpstreamSource
	logger  *zap.Logger
}

func (h *Handler) provisionMulti(ctx caddy.Context) error {
	var multi struct {
		Source string `json:"source"`
		reverseproxy.MultiUpstreams
	}
	if err := caddy.StrictUnmarshalJSON(h.DynamicUpstreamsRaw, &multi); err != nil {
		return fmt.Errorf("loading upstream source module: %w", err)
	}
	h.DynamicUpstreamsRaw = nil
	m := multiSource{logger: h.logger}
	mods, err := ctx.LoadModule(&multi.MultiUpstreams, "SourcesRaw")
	if err != nil {
		return fmt.Errorf("loading upstream source modules: %w", err)
	}
	for _, mod := range mods.([]any) {
		m.sources = append(m.sources, named(mod))
	}
	h.DynamicUpstreams = m
	return nil
}

// GetUpstreams implements reverseproxy.UpstreamSource. It returns the upstreams of all sources, in their order. It logs the
// error of a source that fails, and uses the other sources.
func (m multiSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	var upstreams []*reverseproxy.Upstream
	for _, source := range m.sources {
		if r.Context().Err() != nil {
			return upstreams, context.Canceled
		}
		more, err := source.GetUpstreams(r)
		if err != nil {
			m.logger.Error("a source of dynamic multi failed", zap.String("source", fmt.Sprint(source)), zap.Error(err))
			continue
		}
		upstreams = append(upstreams, more...)
	}
	return upstreams, nil
}

// Interface guards
var (
	_ reverseproxy.UpstreamSource        = aSource{}
	_ reverseproxy.UpstreamSource        = srvSource{}
	_ reverseproxy.CachingUpstreamSource = srvSource{}
	_ reverseproxy.UpstreamSource        = multiSource{}
)
