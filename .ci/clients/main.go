// Command rs asks introspectd what a token says by zitadel's resource server, which
// finds the endpoint by our metadata: rs TOKEN. It is a module of its own, so that
// what it takes never comes near introspectd's.
//
// INTROSPECTD is server.public_url; CLIENT_ID and CLIENT_SECRET are the caller's.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/pkg/client/rs"
	"github.com/zitadel/oidc/v3/pkg/oidc"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	server, err := rs.NewResourceServerClientCredentials(ctx, os.Getenv("INTROSPECTD"), os.Getenv("CLIENT_ID"), os.Getenv("CLIENT_SECRET"))
	if err != nil {
		return err
	}
	answer, err := rs.Introspect[*oidc.IntrospectionResponse](ctx, server, os.Args[1])
	if err != nil {
		return err
	}
	if !answer.Active {
		fmt.Println("refused")
		return nil
	}
	fmt.Println("active", answer.Subject)
	return nil
}
