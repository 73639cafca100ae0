//! Files, ways to upload them, and a look at what S3 holds.

use std::{io::Cursor, path::PathBuf};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Client, Reply, topology};

/// A file and what it is said to be.
#[derive(Clone)]
pub struct File {
    pub bytes: Vec<u8>,
    pub content_type: &'static str,
}

impl File {
    pub fn png(width: u32, height: u32) -> Self {
        Self::picture(width, height, ImageFormat::Png, "image/png")
    }

    pub fn jpeg(width: u32, height: u32) -> Self {
        Self::picture(width, height, ImageFormat::Jpeg, "image/jpeg")
    }

    pub fn webp(width: u32, height: u32) -> Self {
        Self::picture(width, height, ImageFormat::WebP, "image/webp")
    }

    pub fn pdf() -> Self {
        let text = "%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n";
        Self { bytes: text.into(), content_type: "application/pdf" }
    }

    /// Another each time, that nothing can be taken for what was stored before.
    fn picture(width: u32, height: u32, format: ImageFormat, content_type: &'static str) -> Self {
        let hue = rand::random::<u8>();
        let pixel = |x: u32, y: u32| Rgb([hue, (x * 7) as u8, (y * 5) as u8]);
        let picture: DynamicImage = RgbImage::from_fn(width, height, pixel).into();
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        Self { bytes: bytes.into_inner(), content_type }
    }

    /// The same type, with other bytes.
    pub fn with(&self, bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), content_type: self.content_type }
    }

    /// What announces it.
    pub fn announcement(&self, purpose: &str) -> Value {
        json!({
            "content_type": self.content_type, "size": self.bytes.len(), "purpose": purpose,
        })
    }
}

impl Client {
    /// Announces a file: the upload.
    pub async fn announce(&self, file: &File, purpose: &str) -> Value {
        self.post("/v1/uploads", &file.announcement(purpose)).await.expect(201)
    }

    /// Sends bytes as the upload says, without a token.
    pub async fn send(&self, upload: &Value, bytes: &[u8]) -> Reply {
        let terms = &upload["upload"];
        let method: Method = terms["method"].as_str().unwrap().parse().unwrap();
        let mut request = outside().request(method, terms["url"].as_str().unwrap());
        for (name, value) in terms["headers"].as_object().unwrap() {
            // Every client sends the length by itself, and this one may lie about nothing else.
            if name != "content-length" {
                request = request.header(name, value.as_str().unwrap());
            }
        }
        Reply::of(request.body(bytes.to_vec())).await
    }

    pub async fn complete(&self, upload: &Value) -> Reply {
        self.post(&format!("{}/complete", path(upload)), &json!({})).await
    }

    /// Announces, sends and completes a file.
    pub async fn upload(&self, file: &File, purpose: &str) -> Uuid {
        let upload = self.announce(file, purpose).await;
        self.send(&upload, &file.bytes).await.expect_text(200);
        assert_eq!(self.complete(&upload).await.expect(200)["state"], "completed");
        upload["id"].as_str().unwrap().parse().unwrap()
    }

    /// The state of an upload.
    pub async fn state_of(&self, upload: &Value) -> Value {
        self.get(&path(upload)).await.expect(200)
    }

    /// What an address outside of the API answers.
    pub async fn fetch(&self, url: &str) -> Reply {
        Reply::of(outside().get(url)).await
    }
}

/// A client of S3.
fn outside() -> reqwest::Client {
    let timeout = std::time::Duration::from_secs(30);
    reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap()
}

fn path(upload: &Value) -> String {
    format!("/v1/uploads/{}", upload["id"].as_str().unwrap())
}

/// The objects of a database's uploads, as paths on the S3 server's disk.
pub fn objects(database: &str, prefix: &str) -> Vec<PathBuf> {
    let bucket = topology().dir.join("s3").join(&topology().s3.bucket);
    let mut found = Vec::new();
    let mut left = vec![bucket.join(database).join(prefix)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}
