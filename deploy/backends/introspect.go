// What a token says, by Go's standard library: go run introspect.go TOKEN
// INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// One for the whole program: it keeps connections.
var client = &http.Client{Timeout: 2 * time.Second}

func main() {
	var answer struct {
		Active bool   `json:"active"`
		Sub    string `json:"sub"`
	}
	ask("/introspect", &answer)
	if !answer.Active {
		fmt.Println("refused")
		return
	}
	fmt.Println("active", answer.Sub)
	var transformed struct {
		Active bool           `json:"active"`
		Claims map[string]any `json:"claims"`
	}
	ask("/transform", &transformed)
	if transformed.Active {
		fmt.Println("claims", transformed.Claims["sub"])
	}
}

// ask posts the token. Whatever is not a 200 is no answer: let nobody in.
func ask(path string, answer any) {
	form := url.Values{"token": {os.Args[1]}}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, os.Getenv("INTROSPECTD")+path, strings.NewReader(form.Encode()))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// RFC 6749 section 2.3.1: both are form-encoded first.
	r.SetBasicAuth(url.QueryEscape(os.Getenv("CLIENT_ID")), url.QueryEscape(os.Getenv("CLIENT_SECRET")))
	response, err := client.Do(r)
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		panic(response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		panic(err)
	}
}
