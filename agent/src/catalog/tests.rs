mod convergence;
mod definitions;
mod lattice;
mod owners;
pub(crate) mod world;
