package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"introspectd/api"
	"introspectd/internal/callers"
	"introspectd/internal/config"
	"introspectd/internal/extauthz"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/listen"
	"introspectd/internal/memstore"
	"introspectd/internal/redisstore"
	"introspectd/internal/sign"
	"introspectd/internal/telemetry"
	"introspectd/internal/verify"
)

// world is everything that one configuration makes; it never changes.
type world struct {
	config         *config.Config
	keys           map[string]*keeper // by the issuer's name
	verdicts       *memstore.Store    // nil for none
	assertions     *memstore.Store    // nil for none
	signer         *sign.Signer       // nil for none
	introspector   *introspect.Introspector
	measuring      task // of the introspector
	api            *httpapi.API
	admin, metrics http.Handler
}

// keeper is an issuer's keys with the goroutine that keeps them current.
type keeper struct {
	keys     *jwks.Keys
	identity [sha256.Size]byte
	running  task
}

// task is a goroutine that runs until it is ended. The zero value was not
// started.
type task struct {
	stop context.CancelFunc
	done chan struct{}
}

// start runs work, unless it runs already.
func (t *task) start(work func(ctx context.Context)) {
	if t.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	t.stop, t.done = stop, make(chan struct{})
	go func() {
		defer close(t.done)
		work(ctx)
	}()
}

// end stops the work and waits for its end.
func (t *task) end() {
	if t.stop != nil {
		t.stop()
		<-t.done
	}
}

// process is what outlives configurations: a reload carries over keys of the
// same source, remembered verdicts, turns at verifying and the memory of wrong
// guesses.
type process struct {
	log          *slog.Logger
	telemetry    *telemetry.Telemetry
	certificates *listen.Certificates
	observer     *httpapi.Observer
	gate         *httpapi.Gate
	limits       *callers.Limits
	turns        *verify.Turns
	metrics      *introspect.Metrics
	kept         *stores
	systemd      notifier
	current      atomic.Pointer[world]
	reloaded     atomic.Int64
	adopting     sync.Mutex
}

func newProcess(tel *telemetry.Telemetry, certificates *listen.Certificates, kept *stores) (*process, error) {
	p := &process{
		log: tel.Log, telemetry: tel, certificates: certificates, kept: kept,
		gate: httpapi.NewGate(), limits: callers.NewLimits(time.Now),
	}
	kept.onDrop(p.prune)
	p.reloaded.Store(1)
	var err error
	if p.turns, err = verify.NewTurns(0, tel.Meter); err != nil {
		return nil, err
	}
	if p.metrics, err = introspect.NewMetrics(tel.Meter); err != nil {
		return nil, err
	}
	if p.observer, err = httpapi.NewObserver(tel.Log, tel.Access, tel.Meter, tel.Tracer, tel.Propagator); err != nil {
		return nil, err
	}
	return p, p.gauges(tel.Meter)
}

// keep runs the stores until the function it returns is called, which waits for
// them.
func (p *process) keep() (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.kept.run(ctx, func() redisstore.Pace {
			c := p.config().Revocation
			return redisstore.Pace{MaxDelay: c.MaxDelay, RequireExisting: c.RequireExisting}
		})
	}()
	return func() {
		stop()
		<-done
	}
}

// prune takes keys that were withdrawn out of every set at hand.
func (p *process) prune() {
	if w := p.current.Load(); w != nil {
		for _, k := range w.keys {
			k.keys.Prune()
		}
	}
}

// reread has the trust stores of the present world read again: an alias that is
// gone refuses a reload, and its key has to end all the same.
func (p *process) reread() {
	for _, k := range p.current.Load().keys {
		_ = k.keys.Reread() // what goes wrong is logged where it is read
	}
}

func (p *process) gauges(meter metric.Meter) error {
	if _, err := meter.Int64ObservableGauge("introspectd.config.last_reload_successful",
		metric.WithDescription("1 unless the last reload was refused."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(p.reloaded.Load())
			return nil
		})); err != nil {
		return err
	}
	if p.certificates == nil {
		return nil
	}
	_, err := meter.Float64ObservableGauge("introspectd.tls.certificate_days_left",
		metric.WithDescription("Days until the listener's certificate expires."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(time.Until(p.certificates.NotAfter()).Hours() / 24)
			return nil
		}))
	return err
}

func (p *process) config() *config.Config { return p.current.Load().config }

// caches is the memory that the stores of the present world take, in bytes.
func (p *process) caches() (size int64) {
	w := p.current.Load()
	if w.verdicts != nil {
		size += int64(w.config.Cache.Verdicts.Size)
	}
	if w.assertions != nil {
		size += int64(w.config.Cache.Assertions.Size)
	}
	return size
}

// handler serves each request by the world of its moment.
func (p *process) handler(pick func(*world) http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pick(p.current.Load()).ServeHTTP(w, r)
	})
}

// envoy answers Envoy's gRPC calls by the world of their moment, with the
// certificates of the public listener.
func (p *process) envoy() *extauthz.Server {
	o := extauthz.Options{API: func() *httpapi.API { return p.current.Load().api }, Log: p.log}
	if p.certificates != nil {
		o.TLS = p.certificates.Config()
	}
	return extauthz.New(o)
}

// adopt builds the world of cfg and makes it the present one. On an error
// nothing has changed.
func (p *process) adopt(cfg *config.Config) error {
	p.adopting.Lock()
	defer p.adopting.Unlock()
	before := p.current.Load()
	next, err := p.build(cfg, before)
	if err != nil {
		return err
	}
	p.telemetry.Reload(cfg.Telemetry)
	p.kept.revocations.Configure(cfg.Revocation)
	p.current.Store(next)
	p.warnOfOrphans(before, next)
	p.prune() // of what was withdrawn while it was built
	next.measuring.start(next.introspector.Run)
	for _, k := range next.keys {
		k.running.start(k.keys.Run)
	}
	if before != nil {
		before.measuring.end()
		for name, k := range before.keys {
			if next.keys[name] != k {
				k.running.end()
			}
		}
	}
	return nil
}

func (p *process) build(cfg *config.Config, before *world) (*world, error) {
	w := &world{
		config: cfg, keys: make(map[string]*keeper, len(cfg.Issuers)),
		verdicts: verdictStore(cfg, before), assertions: assertionStore(cfg, before),
	}
	var issuers []introspect.Issuer
	for _, row := range cfg.Issuers {
		k, err := p.keeper(row, before)
		if err != nil {
			return nil, err
		}
		w.keys[row.Name] = k
		issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, k.keys)})
	}
	options := introspect.Options{Cache: cfg.Cache, DigestKey: p.kept.digestKey, Revocations: p.kept.revocations, Turns: p.turns, Metrics: p.metrics}
	if p.kept.redis != nil {
		options.Shared = p.kept.redis.Verdicts()
	}
	if w.verdicts != nil {
		options.Store = w.verdicts
	}
	var err error
	if w.introspector, err = introspect.New(issuers, options); err != nil {
		return nil, err
	}
	who, err := callers.New(cfg.Callers, p.limits)
	if err != nil {
		return nil, err
	}
	if w.signer, err = w.newSigner(p.log); err != nil {
		return nil, err
	}
	ready := func() httpapi.Readiness {
		return p.gate.Read(w.hasKeys(), p.kept.revocations.State(), p.kept.problems()...)
	}
	w.api = httpapi.New(httpapi.Options{
		Introspector: w.introspector, Callers: who, Rows: cfg.Callers, Auth: cfg.Auth, MaxDelay: cfg.Revocation.MaxDelay,
		Policies: cfg.Policies, Errors: cfg.Errors,
		Profiles: cfg.Profiles, Signer: w.signer, PublicURL: cfg.Server.PublicURL, Observer: p.observer, Ready: ready,
	})
	w.admin = httpapi.NewAdmin(httpapi.AdminOptions{
		Callers: who, Observer: p.observer, Ready: ready, Metrics: p.telemetry.Metrics(), OpenAPI: api.OpenAPI,
		Issuers: w.states, Refresh: w.refresh, Local: w.local, Introspector: w.introspector, Revocations: p.kept.revocations, Names: names(cfg.Issuers),
		Address: cfg.Server.Admin, Hosts: cfg.Server.AdminHosts, PProf: cfg.Server.PProf,
	})
	w.metrics = httpapi.NewMetrics(p.observer, ready, p.telemetry.Metrics())
	return w, nil
}

// names maps each iss to the issuer's name.
func names(issuers []introspect.IssuerConfig) map[string]string {
	byISS := make(map[string]string, len(issuers))
	for _, row := range issuers {
		byISS[row.Issuer] = row.Name
	}
	return byISS
}

// verdictStore returns the store of verdicts: that of the world before, unless
// the size was changed; nil for none.
func verdictStore(cfg *config.Config, before *world) *memstore.Store {
	size := cfg.Cache.Verdicts.Size
	switch {
	case before != nil && before.config.Cache.Verdicts.Size == size:
		return before.verdicts
	case size == 0:
		return nil
	}
	return memstore.New(int64(size))
}

// assertionStore returns the store of assertions: that of the world before,
// unless the size was changed; nil where nothing is signed.
func assertionStore(cfg *config.Config, before *world) *memstore.Store {
	size := cfg.Cache.Assertions.Size
	switch {
	case !cfg.Signing.Enabled():
		return nil
	case before != nil && before.assertions != nil && before.config.Cache.Assertions.Size == size:
		return before.assertions
	}
	return memstore.New(int64(size))
}

// newSigner returns what signs by the configuration of w, nil for nothing.
//
// A key of ours among the files of an issuer is a slip of the operator, and
// refused. What an issuer publishes is its own affair: our public keys are there
// for everyone to copy, and who does so must not keep us from starting. It gains
// nothing by that, as no issuer can have our iss.
func (w *world) newSigner(log *slog.Logger) (*sign.Signer, error) {
	if !w.config.Signing.Enabled() {
		return nil, nil
	}
	keys, err := sign.Load(w.config.Signing)
	if err != nil {
		return nil, err
	}
	for _, row := range w.config.Issuers {
		theirs := w.keys[row.Name].keys
		for _, k := range theirs.State().Keys {
			switch {
			case !slices.Contains(keys.IDs(), k.Thumbprint.String()):
			case theirs.Local():
				return nil, fmt.Errorf("the signing key %s is a key of issuer %s as well: what we sign must never pass for its tokens", k.Thumbprint, row.Name)
			default:
				log.Warn("an issuer publishes a key of ours as its own", "issuer", row.Name, "kid", k.Thumbprint.String())
			}
		}
	}
	return sign.New(sign.Options{Keys: keys, Issuer: w.config.Server.PublicURL, Cache: w.assertions}), nil
}

// warnOfOrphans tells of assertions that nobody can verify any more.
func (p *process) warnOfOrphans(before, next *world) {
	if before == nil || before.signer == nil {
		return
	}
	if kid := before.signer.KeyID(); kid != "" && (next.signer == nil || !slices.Contains(next.signer.Keys().IDs(), kid)) {
		p.log.Warn("the key that signed until now is not listed any more: backends that read /jwks.json again refuse what it signed", "kid", kid)
	}
}

// keeper returns the keys of an issuer: those of the world before, if nothing
// about them was changed, or new ones that begin with what those hold, if issuer
// and source are the same. A reload never loses a key.
func (p *process) keeper(row introspect.IssuerConfig, before *world) (*keeper, error) {
	identity, err := identityOf(row)
	if err != nil {
		return nil, err
	}
	options := jwks.Options{Name: row.Name, Issuer: row.Issuer, Log: p.log, Meter: p.telemetry.Meter}
	options.Dropped = func(t jwks.Thumbprint) time.Time { return p.kept.revocations.DroppedKey(row.Issuer, t) }
	if p.kept.redis != nil {
		options.Fleet = p.kept.redis.KeySets()
	}
	if p.kept.file != nil {
		options.Store = p.kept.file
	}
	if k := before.keeperOf(row.Issuer); k != nil {
		if k.identity == identity {
			return k, nil
		}
		options.Before = k.keys
	}
	keys, err := jwks.New(row.Keys, options)
	if err != nil {
		return nil, fmt.Errorf("keys of issuer %s: %w", row.Name, err)
	}
	return &keeper{keys: keys, identity: identity}, nil
}

// keeperOf returns the keys of the issuer whose tokens say iss, whatever its
// name is; nil where w, which may be nil, has none.
func (w *world) keeperOf(iss string) *keeper {
	if w == nil {
		return nil
	}
	for _, row := range w.config.Issuers {
		if row.Issuer == iss {
			return w.keys[row.Name]
		}
	}
	return nil
}

// identityOf digests an issuer and its key source, the content of its files
// included.
func identityOf(row introspect.IssuerConfig) ([sha256.Size]byte, error) {
	text, err := json.Marshal(struct {
		Name, Issuer string
		Keys         jwks.Config
	}{row.Name, row.Issuer, row.Keys})
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	var paths []string
	for _, f := range row.Keys.Files {
		paths = append(paths, f.Path)
	}
	files := contentOf(append(paths, row.Keys.CA, row.Keys.TrustStore.Path, row.Keys.TrustStore.Password.File))
	return sha256.Sum256(append(text, files[:]...)), nil
}

// stop ends what the present world keeps running.
func (p *process) stop() {
	if w := p.current.Load(); w != nil {
		w.measuring.end()
		for _, k := range w.keys {
			k.running.end()
		}
	}
}

func (w *world) hasKeys() map[string]bool {
	has := make(map[string]bool, len(w.keys))
	for name, k := range w.keys {
		has[name] = k.keys.Ready()
	}
	return has
}

// issuerState is one row of GET /issuers.
type issuerState struct {
	Name   string     `json:"name"`
	Issuer string     `json:"issuer"`
	Ready  bool       `json:"ready"`
	Keys   jwks.State `json:"keys"`
}

func (w *world) states() any {
	rows := make([]issuerState, 0, len(w.config.Issuers))
	for _, row := range w.config.Issuers {
		keys := w.keys[row.Name].keys
		rows = append(rows, issuerState{row.Name, row.Issuer, keys.Ready(), keys.State()})
	}
	return struct {
		Issuers []issuerState `json:"issuers"`
	}{rows}
}

func (w *world) refresh(ctx context.Context, name string) error {
	k := w.keys[name]
	if k == nil {
		return httpapi.ErrNoIssuer
	}
	return k.keys.Refresh(ctx)
}

func (w *world) local(name string) bool {
	k := w.keys[name]
	return k != nil && k.keys.Local()
}

// refreshAll fetches the keys of every issuer, side by side, unless a fetch is
// under way that began since that was wanted. What goes wrong is logged where it is
// fetched.
func (w *world) refreshAll(ctx context.Context, wanted time.Time) {
	var fetches sync.WaitGroup
	for _, k := range w.keys {
		fetches.Go(func() { _ = k.keys.RefreshSince(ctx, wanted) })
	}
	fetches.Wait()
}
