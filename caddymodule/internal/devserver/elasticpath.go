package devserver

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// elasticPath is the token endpoint of Elastic Path Commerce Cloud.
type elasticPath struct{ client client }

// check accepts what all clients of the vendor send, and nothing else: a form, with the credentials in the body, and no
// secret with the grant implicit.
func (p elasticPath) check(r *http.Request, in params) (granted, *answer) {
	refuse := func(status int, detail string) (granted, *answer) {
		a := jsonAPIError(status, strconv.Itoa(status), detail)
		return granted{}, &a
	}
	id, grant := in.values["client_id"], in.values["grant_type"]
	secret, hasSecret := in.values["client_secret"]
	switch {
	case r.URL.Path != "/oauth/access_token" || r.Method != http.MethodPost:
		return refuse(http.StatusNotFound, "")
	case in.mediaType != "application/x-www-form-urlencoded" || in.malformed:
		return refuse(http.StatusBadRequest, "the body must be application/x-www-form-urlencoded")
	case r.Header.Get("Authorization") != "":
		return refuse(http.StatusBadRequest, "credentials belong in the body, not in Authorization")
	case id == "":
		return refuse(http.StatusBadRequest, "client_id is missing")
	case grant == "implicit" && hasSecret:
		return refuse(http.StatusBadRequest, "client_secret must not be sent with implicit")
	case grant == "implicit" && id == p.client.id:
		return granted{grant: grant}, nil
	case grant == "client_credentials" && p.client.knows(id, secret):
		return granted{grant: grant}, nil
	case grant == "implicit", grant == "client_credentials":
		return refuse(http.StatusUnauthorized, "")
	}
	return refuse(http.StatusBadRequest, "grant_type must be client_credentials or implicit")
}

func (elasticPath) mint() string {
	return hex.EncodeToString(randomBytes(20)) // the service issues 40 hexadecimal digits
}

func (elasticPath) lifetime() time.Duration {
	return time.Hour
}

func (elasticPath) success(t Token, grant string, f Fault) []byte {
	return encode(f.spoil(tokenBody{
		AccessToken: t.Value,
		TokenType:   "Bearer",
		ExpiresIn:   strconv.AppendInt(nil, t.remaining(), 10),
		Expires:     t.Expires.Unix(),
		Identifier:  grant,
	}))
}

func (elasticPath) header() map[string]string {
	return map[string]string{"Content-Type": typeJSON}
}

// refuse has all forms that clients of the service must expect: status as a number (429) or as a string, with a detail
// (500) or without, HTML from the edge (502 to 504), and the flat OAuth error that the vendor's Python SDK reads.
func (elasticPath) refuse(status int, code string) answer {
	if code != "" {
		return answer{status, map[string]string{"Content-Type": typeJSON}, encode(map[string]string{"error": code})}
	}
	switch status {
	case http.StatusTooManyRequests:
		return jsonAPIError(status, status, "")
	case http.StatusInternalServerError:
		return jsonAPIError(status, strconv.Itoa(status), "there was a problem processing your request")
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		page := fmt.Sprintf("<html><head><title>%d %s</title></head></html>\n", status, http.StatusText(status))
		return answer{status, map[string]string{"Content-Type": typeHTML}, []byte(page)}
	}
	return jsonAPIError(status, strconv.Itoa(status), "")
}

// jsonAPIError is an answer such as {"errors":[{"title":"Unauthorized","status":"401"}]}. shown is the status as it
// stands in the body, a string or a number.
func jsonAPIError(status int, shown any, detail string) answer {
	type item struct {
		Title  string `json:"title"`
		Status any    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}
	return answer{
		status: status,
		header: map[string]string{"Content-Type": typeJSON},
		body:   encode(map[string][]item{"errors": {{http.StatusText(status), shown, detail}}}),
	}
}
