//! An S3 server of the test's own, and a look at what is on its disk: parts as well, which no
//! listing shows.

use std::{fs, path::PathBuf};

use lab::{
    s3::{BUCKET, S3, Settings},
    site::Site,
};

use super::{topology, unique};

pub struct Bucket {
    s3: S3,
    dir: PathBuf,
}

impl Bucket {
    pub fn start() -> Self {
        let dir = Site::beside(topology(), &unique("s3")).unwrap().dir().join("s3");
        let account = &topology().s3;
        let settings = Settings {
            dir: dir.clone(),
            port: 0,
            access_key: account.access_key.clone(),
            secret_key: account.secret_key.clone(),
        };
        Self { s3: S3::start(&settings).unwrap(), dir }
    }

    pub fn endpoint(&self) -> String {
        self.s3.endpoint()
    }

    pub fn port(&self) -> u16 {
        let endpoint = self.endpoint();
        endpoint.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Keys of objects, as paths.
    pub fn objects(&self) -> Vec<String> {
        let (mut found, mut left) = (Vec::new(), vec![self.dir.join(BUCKET)]);
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
        found.sort_unstable();
        found
    }

    /// Files of uploads in parts that are neither completed nor aborted.
    pub fn parts(&self) -> Vec<String> {
        let names = fs::read_dir(&self.dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload")).collect()
    }
}
