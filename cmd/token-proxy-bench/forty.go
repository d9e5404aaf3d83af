package main

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// fortyLines returns the proxy that a developer would write by hand. It has the defaults of its libraries, except that
// it keeps as many idle connections to a host as Caddy does. With Go's default of 2, most requests would open a
// connection.
func fortyLines(upstream, tokenURL, margin string) (http.Handler, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	early, err := time.ParseDuration(margin)
	if err != nil {
		return nil, err
	}
	config := &clientcredentials.Config{
		ClientID:     clientID,
		ClientSecret: clientSecret,
		TokenURL:     tokenURL,
		AuthStyle:    oauth2.AuthStyleInHeader,
	}
	source := config.TokenSource(context.Background())
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
		Transport: &oauth2.Transport{
			Source: oauth2.ReuseTokenSourceWithExpiry(nil, source, early),
			Base:   transport,
		},
	}, nil
}
