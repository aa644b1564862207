//! svc-agent.
