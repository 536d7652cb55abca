//! What the client asks, and the end of the process.

use std::sync::Once;

use super::config::Leaks;
use super::ffi;
use super::state::{Driver, driver, init};
use crate::client::{Leak, Reply, Request};

/// Answers a request of [`crate::client`], both as JSON.
pub fn control(request: &str) -> String {
    let reply = match serde_json::from_str::<Request>(request) {
        Ok(request) => match init() {
            Ok(driver) => Reply::Done(answer(driver, request)),
            Err(error) => Reply::Failed(error.to_string()),
        },
        Err(error) => Reply::Failed(error.to_string()),
    };
    serde_json::to_string(&reply).unwrap_or_default()
}

fn answer(driver: &Driver, request: Request) -> serde_json::Value {
    let record = &driver.record;
    match request {
        Request::Mark => serde_json::to_value(record.mark()),
        Request::CountsSince(mark) => serde_json::to_value(record.counts_since(mark)),
        Request::LaunchesSince(mark) => serde_json::to_value(record.launches_since(mark)),
        Request::ReportsSince(mark) => serde_json::to_value(record.reports_since(mark)),
        Request::Leaks => serde_json::to_value(driver.state().leaks()),
        Request::Clear => {
            record.clear();
            driver.state().lost.clear();
            Ok(serde_json::Value::Null)
        }
        Request::SetFault(fault) => {
            driver.faults.set(fault);
            Ok(serde_json::Value::Null)
        }
        Request::ClearFaults => {
            driver.faults.clear();
            Ok(serde_json::Value::Null)
        }
        Request::ResetErrors => {
            for context in driver.state().contexts.values_mut() {
                context.fault = None;
            }
            Ok(serde_json::Value::Null)
        }
    }
    .unwrap_or_default()
}

/// Leaks are looked for when the process exits.
pub fn watch_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(ffi::at_exit);
}

/// Writes the leaks to the log; whether the process is to fail for them.
pub fn report_leaks() -> bool {
    let Ok(driver) = driver() else { return false };
    let leaks: Vec<Leak> = driver.state().leaks();
    for leak in &leaks {
        driver.record.note(&format!("leaked: {leak}"));
    }
    driver.leaks == Leaks::Fail && !leaks.is_empty()
}
