//! Where the results of a run go: standard output, and the files that were asked for.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sampan_bench::Report;

use crate::exit::{self, Failure};
use crate::terminal::print_line;

/// What was asked for, beside or in place of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outputs<'a> {
    json: Option<&'a Path>,
    svg: Option<&'a Path>,
}

impl<'a> Outputs<'a> {
    /// Refuses what could not be kept, before minutes are spent on it. What is in the files stays
    /// there until there is a result, and no new file is left.
    pub(super) fn check(json: Option<&'a Path>, svg: Option<&'a Path>) -> Result<Self, Failure> {
        let outputs = Self { json, svg };
        let probe = |path: &Path| Probe::new(path).map_err(|error| unwritable(path, &error));
        let json_probe = outputs.json_file().map(probe).transpose()?;
        let svg_probe = outputs.svg_file().map(probe).transpose()?;
        let both_printed = json.is_some_and(is_stdout) && svg.is_some_and(is_stdout);
        let is_one_file = json_probe.zip(svg_probe).is_some_and(|(json, svg)| json.is_same(&svg));
        if both_printed || is_one_file {
            return Err(Failure::usage("json and svg: each wants a place of its own"));
        }
        Ok(outputs)
    }

    /// Prints first, then writes the files, each whatever became of the others.
    pub(super) fn write(self, report: &Report) -> Result<(), Failure> {
        let printed = if self.json.is_some_and(is_stdout) {
            report.to_json()
        } else if self.svg.is_some_and(is_stdout) {
            sampan_bench::plot(report)
        } else {
            report.to_string()
        };
        let printed = print_line(printed.trim_end());
        let json = self.json_file().map(|path| write(path, &report.to_json()));
        let svg = self.svg_file().map(|path| write(path, &sampan_bench::plot(report)));
        let written = [Some(printed), json, svg].into_iter().flatten();
        let faults: Vec<String> = written.filter_map(|one| Some(one.err()?.text)).collect();
        if faults.is_empty() {
            return Ok(());
        }
        Err(Failure::new(exit::UNWRITTEN, faults.join("; ")))
    }

    fn json_file(self) -> Option<&'a Path> {
        self.json.filter(|path| !is_stdout(path))
    }

    fn svg_file(self) -> Option<&'a Path> {
        self.svg.filter(|path| !is_stdout(path))
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}

/// A file that can be written. If it was not there it goes again with this.
struct Probe {
    metadata: Metadata,
    made: Option<PathBuf>,
}

impl Probe {
    fn new(path: &Path) -> io::Result<Self> {
        let open = |create| OpenOptions::new().create(create).append(true).open(path);
        let with = |file: File, made| Ok(Self { metadata: file.metadata()?, made });
        match open(false) {
            // A link to nothing stays, what it names goes.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                with(open(true)?, Some(path.canonicalize()?))
            }
            opened => with(opened?, None),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let id = |of: &Metadata| (of.dev(), of.ino());
        self.metadata.is_file() && id(&self.metadata) == id(&other.metadata)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Left empty, it is no worse than that.
            _ = fs::remove_file(path);
        }
    }
}
