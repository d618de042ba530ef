# introspectd in an image of its own: one static binary and the CA certificates
# that key addresses are checked against, nothing to log in to and nothing that
# writes. cmd/introspectd/dockerfile_test.go holds this file to it.
#
#   docker build --build-arg VERSION=1.0.0 -t introspectd .
#   docker run --read-only -v ./config.yaml:/etc/introspectd/config.yaml:ro -p 8080:8080 introspectd
#
# The default server.listen is loopback, which nobody outside the container can
# reach: the configuration has to name another, such as 0.0.0.0:8080.
FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -tags nomsgpack -ldflags "-s -w -X main.version=$VERSION" -o /introspectd ./cmd/introspectd

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /introspectd /introspectd
# A number, because there is no /etc/passwd, and because Kubernetes' runAsNonRoot
# can't tell who a name is.
USER 65532:65532
EXPOSE 8080
# Asks the admin listener of the configuration that serve reads, too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/introspectd", "healthcheck"]
ENTRYPOINT ["/introspectd"]
CMD ["serve"]
