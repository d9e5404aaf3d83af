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

// fortyLines returns the proxy that a developer would write by hand, with the defaults of its libraries.
func fortyLines(upstream, tokenURL, margin, clientID string, transport *http.Transport) (http.Handler, error) {
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
