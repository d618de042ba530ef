package redistest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Cluster is three masters that share the slots.
type Cluster struct{ Nodes []*Server }

// StartCluster runs a cluster in dir, and waits until every node knows that it
// is whole.
func StartCluster(dir string) (c *Cluster, err error) {
	c = &Cluster{}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	for n := range 3 {
		own := filepath.Join(dir, fmt.Sprint("node", n))
		if err := os.Mkdir(own, 0o700); err != nil {
			return c, err
		}
		s, err := Start(own, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		if err != nil {
			return c, err
		}
		c.Nodes = append(c.Nodes, s)
	}
	bounds := []string{"0", "5460", "5461", "10922", "10923", "16383"}
	for n, s := range c.Nodes {
		if _, err := s.Do("CLUSTER", "ADDSLOTSRANGE", bounds[2*n], bounds[2*n+1]); err != nil {
			return c, err
		}
		host, port, _ := net.SplitHostPort(c.Nodes[0].Addr)
		if n > 0 {
			if _, err := s.Do("CLUSTER", "MEET", host, port); err != nil {
				return c, err
			}
		}
	}
	return c, wait("the cluster is whole", func() (bool, error) {
		for _, s := range c.Nodes {
			info, err := s.Do("CLUSTER", "INFO")
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return false, nil
			}
		}
		return true, nil
	})
}

// Addresses are those of all nodes.
func (c *Cluster) Addresses() (all []string) {
	for _, s := range c.Nodes {
		all = append(all, s.Addr)
	}
	return all
}

// Stop ends all nodes.
func (c *Cluster) Stop() {
	for _, s := range c.Nodes {
		s.Stop()
	}
}

// MasterName is what sentinels call their master.
const MasterName = "mymaster"

// Sentinels are a master with two replicas, and three sentinels that watch it.
type Sentinels struct {
	Servers   []*Server // the first was master at the start
	Sentinels []*Server
}

// StartSentinels runs them in dir, and waits until each knows the others.
func StartSentinels(dir string) (w *Sentinels, err error) {
	w = &Sentinels{}
	defer func() {
		if err != nil {
			w.Stop()
		}
	}()
	master, err := Start(dir)
	if err != nil {
		return w, err
	}
	w.Servers = append(w.Servers, master)
	host, port, _ := net.SplitHostPort(master.Addr)
	for range 2 {
		replica, err := Start(dir, "--replicaof", host+" "+port)
		if err != nil {
			return w, err
		}
		w.Servers = append(w.Servers, replica)
	}
	if err := wait("the replicas are in step", func() (bool, error) {
		info, err := master.Do("INFO", "replication")
		return err == nil && strings.Count(info, "state=online") == 2, nil
	}); err != nil {
		return w, err
	}
	for n := range 3 {
		file := filepath.Join(dir, fmt.Sprintf("sentinel%d.conf", n))
		text := fmt.Sprintf("sentinel monitor %[1]s %s %s 2\nsentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 3000\n", MasterName, host, port)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return w, err
		}
		s, err := startSentinel(dir, file)
		if err != nil {
			return w, err
		}
		w.Sentinels = append(w.Sentinels, s)
	}
	return w, wait("the sentinels know each other", func() (bool, error) {
		for _, s := range w.Sentinels {
			info, err := s.Do("INFO", "sentinel")
			if err != nil || !strings.Contains(info, "status=ok") || !strings.Contains(info, "slaves=2") || !strings.Contains(info, "sentinels=3") {
				return false, nil
			}
		}
		return true, nil
	})
}

func startSentinel(dir, file string) (*Server, error) {
	addr, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &Server{Addr: addr, log: file + ".log"}
	s.args = []string{file, "--sentinel", "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--logfile", s.log}
	return s, s.Restart()
}

// Addresses are those of the sentinels.
func (w *Sentinels) Addresses() (all []string) {
	for _, s := range w.Sentinels {
		all = append(all, s.Addr)
	}
	return all
}

// Master is who the sentinels say is master now.
func (w *Sentinels) Master() (*Server, error) {
	answer, err := w.Sentinels[0].Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
	if err != nil {
		return nil, err
	}
	addr := strings.Replace(answer, "\n", ":", 1)
	for _, s := range w.Servers {
		if s.Addr == addr {
			return s, nil
		}
	}
	return nil, fmt.Errorf("nobody is at %s", addr)
}

// Failover kills the master, and waits until another is one.
func (w *Sentinels) Failover() error {
	old, err := w.Master()
	if err != nil {
		return err
	}
	old.Kill()
	return wait("there is another master", func() (bool, error) {
		now, err := w.Master()
		if err != nil || now == old {
			return false, nil
		}
		info, err := now.Do("INFO", "replication")
		return err == nil && strings.Contains(info, "role:master"), nil
	})
}

// Stop ends all of them.
func (w *Sentinels) Stop() {
	for _, s := range append(w.Sentinels, w.Servers...) {
		s.Stop()
	}
}
