//! `signet audit controls`: for clauses of standards, what the mesh can show, with the export that shows it.

use std::process::ExitCode;

use signet_audit_export::controls::{Control, catalogue};

use crate::arguments::Global;
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Format, Row};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// One control whole, such as PCI-DSS-4.0.1:10.2.2; or all of a standard, such as PCI-DSS-4.0.1.
    #[arg(value_name = "CONTROL")]
    control: Option<String>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut controls = catalogue().failed("the controls catalogue is broken", "report this as a bug")?;
    if let Some(wanted) = &arguments.control {
        let of = |control: &Control| control.id == *wanted || control.id.split(':').next() == Some(wanted);
        controls.retain(of);
        if controls.is_empty() {
            return Err(Failure::failed(format!("the catalogue has no control `{wanted}`"))
                .next("`signet audit controls` lists them"));
        }
    }
    match (global.output, controls.as_slice()) {
        (Format::Table, [control]) => output::line(&whole(control))?,
        (format, controls) => output::rows(format, controls, "The catalogue is empty.")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn whole(control: &Control) -> String {
    let mut export = "signet audit export --format jsonl --out FILE".to_owned();
    for argument in control.records.arguments() {
        export.push(' ');
        export.push_str(&argument);
    }
    format!(
        "{} ({})\n{}\n\n  shows    {}\n  cannot   {}\n  records  {export}",
        control.id, control.title, control.about, control.shows, control.cannot
    )
}

impl Row for Control {
    const COLUMNS: &'static [&'static str] = &["control", "about", "records"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.about.clone(), self.records.arguments().join(" ")]
    }
}
