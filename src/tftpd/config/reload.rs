//! Reloads `[takeover]`: a running server takes over changes of its pool.

use super::load;
use super::takeover::{StoreSource, Takeover};
use guideway_tftp::takeover::{Membership, Settings};

impl Takeover {
    /// Reads the pool again.
    ///
    /// # Errors
    /// As for [`Takeover::membership`], and when a value has changed that requires a restart.
    pub fn reload(&self, me: &str, before: &Settings) -> Result<Membership, String> {
        check_replacement(before, self.reread()?.membership(me)?)
    }

    /// Returns the settings that differ in `new` and need a restart: key, value here and value there.
    pub fn changes(&self, new: &Takeover) -> Vec<String> {
        let mut changes = Vec::new();
        let mut compare = |key: &str, old: String, new: String| {
            if old != new {
                changes.push(format!("takeover.{key}: {old} → {new}"));
            }
        };
        compare("port", self.port.to_string(), new.port.to_string());
        compare("checkpoint_timeout", format!("{:?}", self.checkpoint_timeout), format!("{:?}", new.checkpoint_timeout));
        compare("memory.transfers", self.memory.transfers.to_string(), new.memory.transfers.to_string());
        compare("memory.bytes", self.memory.bytes.to_string(), new.memory.bytes.to_string());
        changes
    }

    /// Reads the section from its file again.
    ///
    /// # Errors
    /// When the file cannot be read or used, or no longer has `[takeover]`.
    fn reread(&self) -> Result<Takeover, String> {
        let file = self.file.as_deref().ok_or("there is no file to reload")?;
        let checked = load(file).map_err(|error| error.to_string())?;
        if let Some(problem) = checked.errors().next() {
            return Err(problem.in_file(file).to_string());
        }
        Ok(checked.config.and_then(|(config, _)| config.takeover).ok_or("[takeover] was removed; that requires a restart")?)
    }

    /// Reads the section and its store again from the files of the server and the director.
    ///
    /// # Errors
    /// When one of them cannot be read or used, for example because the server has switched to another user, or when the pool is no longer in a store.
    pub fn reload_store(&self) -> Result<(Takeover, StoreSource), String> {
        let now = self.reread()?;
        let store = now.store()?.ok_or("the pool is no longer in a store; that requires a restart")?;
        Ok((now, store))
    }
}

/// Returns `membership` if it may replace the one that the server was started with.
///
/// # Errors
/// When a value has changed that requires a restart.
pub fn check_replacement(before: &Settings, membership: Membership) -> Result<Membership, String> {
    let (old, new) = (before.membership.me(), membership.me());
    if old.checkpoint_address != new.checkpoint_address || old.tid_range != new.tid_range || old.name != new.name {
        return Err("takeover: a change of this server's own name, address, port or tid_range requires a restart".to_owned());
    }
    Ok(membership)
}
