//! Scenarios run at the same time, but for what compares times.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINES: RwLock<()> = RwLock::new(());

/// Leave to start machines. A scenario has one of these at most, since who waits to be alone lets nobody else begin.
#[derive(Debug)]
pub enum Turn {
    /// With others.
    Together(RwLockReadGuard<'static, ()>),
    /// With nobody else.
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Turn {
    /// Waits until nobody is alone, or waits to be.
    #[must_use]
    pub fn together() -> Self {
        Self::Together(MACHINES.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until all the others have ended.
    #[must_use]
    pub fn alone(self) -> Self {
        drop(self);
        Self::Alone(MACHINES.write().unwrap_or_else(PoisonError::into_inner))
    }
}
