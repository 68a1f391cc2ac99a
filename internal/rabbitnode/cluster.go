package rabbitnode

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
)

// Cluster is several nodes that know each other. They share a port mapper that no
// other cluster has, and which outlives each of them.
type Cluster struct {
	Nodes  []*Node
	guard  io.Closer
	mapper *exec.Cmd
}

// StartCluster starts a cluster of new nodes and waits until all of them are in
// it. After an error nothing is left running.
func StartCluster(size int) (*Cluster, error) {
	c := &Cluster{}
	for range size {
		n, err := newNode(Settings{})
		if err != nil {
			return nil, errors.Join(err, c.Remove())
		}
		c.Nodes = append(c.Nodes, n)
	}
	if err := c.form(); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// form starts the port mapper and the nodes, which find each other by their
// configuration.
func (c *Cluster) form() error {
	first := c.Nodes[0]
	var conf strings.Builder
	conf.WriteString("cluster_formation.peer_discovery_backend = classic_config\n")
	for i, n := range c.Nodes {
		fmt.Fprintf(&conf, "cluster_formation.classic_config.nodes.%d = %s\n", i+1, n.name())
	}
	for _, n := range c.Nodes {
		n.lone, n.epmd, n.cookie, n.own.Conf = false, first.epmd, first.cookie, conf.String()
		if err := n.prepare(); err != nil {
			return err
		}
	}
	if err := c.startMapper(first); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := n.launch(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.await(); err != nil {
			return err
		}
	}
	_, err := first.Ctl("await_online_nodes", strconv.Itoa(len(c.Nodes)), "--timeout", "300")
	return err
}

// startMapper starts the port mapper, which ends with this process.
func (c *Cluster) startMapper(n *Node) (err error) {
	cmd := exec.Command("sh", "-c", mapperScript+"cat >/dev/null\nkill -KILL 0")
	cmd.Env, cmd.Dir = append(n.env(), "SHARED_MAPPER="), n.dir
	setGroup(cmd)
	if c.guard, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.mapper = cmd
	return nil
}

// Remove ends all nodes and their port mapper, and removes their files.
func (c *Cluster) Remove() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.Remove())
	}
	if c.mapper != nil {
		_ = c.guard.Close()
		_ = c.mapper.Wait() // it was killed
		c.mapper = nil
	}
	return errors.Join(errs...)
}
