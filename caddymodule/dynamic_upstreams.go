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

// found notes the answer of a source in the state of the request.
func found(r *http.Request, name string, upstreams []*reverseproxy.Upstream) {
	if p, ok := r.Context().Value(proxiedKey{}).(*proxied); ok {
		p.found = append(p.found, foundUpstream{name, upstreams})
	}
}

// provisionDynamicUpstreams puts what notes the names around the dynamic sources. reverse_proxy would load them without.
func (h *Handler) provisionDynamicUpstreams(ctx caddy.Context) error {
	if h.DynamicUpstreamsRaw == nil {
		return nil
	}
	var kind struct {
		Source string `json:"source"`
	}
	_ = json.Unmarshal(h.DynamicUpstreamsRaw, &kind) // loading the module tells what is wrong
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

// named returns the source as one that notes its name, if it has one.
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

// GetUpstreams implements reverseproxy.UpstreamSource. Placeholders are replaced only once, so that the name that counts
// is the one that is looked up.
func (s aSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	a := *s.AUpstreams
	a.Name, a.Port = replaced(r, a.Name), replaced(r, a.Port)
	upstreams, err := a.GetUpstreams(r)
	found(r, a.Name, upstreams)
	return upstreams, err
}

// srvSource is `dynamic srv`. Its embedded source clears its own cache.
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

// multiSource is `dynamic multi`. reverse_proxy's own does not show the sources that it has loaded.
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

// GetUpstreams implements reverseproxy.UpstreamSource: all that its sources return, in their order. A source that fails
// leaves it to the others.
func (m multiSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	var upstreams []*reverseproxy.Upstream
	for _, source := range m.sources {
		if r.Context().Err() != nil {
			return upstreams, context.Canceled
		}
		more, err := source.GetUpstreams(r)
		if err != nil {
			m.logger.Error("a source of dynamic multi has failed", zap.String("source", fmt.Sprint(source)), zap.Error(err))
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
