package oauth

// ReservedHeaders are the header fields that cannot carry a token, because a proxy removes them or because they frame the
// message. The names are in canonical form.
var ReservedHeaders = map[string]bool{
	"Alt-Svc": true, "Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}
