package oauth

// ReservedHeaders cannot carry a token: a proxy removes them, or they frame the message.
var ReservedHeaders = map[string]bool{
	"Alt-Svc": true, "Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}
