CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY, dir TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, tar_size INTEGER NOT NULL,
    has_root INTEGER NOT NULL, added INTEGER NOT NULL
) WITHOUT ROWID;
-- compressed forms of layers: kept as a registry sent them (stored = 1), or only known to exist in registries
CREATE TABLE layer_blobs (
    diff_id TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL, stored INTEGER NOT NULL,
    PRIMARY KEY (diff_id, digest)
) WITHOUT ROWID;
-- in which repositories a compressed layer was seen, for mounting it across repositories
CREATE TABLE blob_sources (
    digest TEXT NOT NULL, repository TEXT NOT NULL, PRIMARY KEY (digest, repository)
) WITHOUT ROWID;
CREATE TABLE images (
    id TEXT PRIMARY KEY, config BLOB NOT NULL, parent TEXT, manifest TEXT, tagged_at TEXT, added TEXT NOT NULL
);
CREATE TABLE tags (reference TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX tags_image ON tags (image);
CREATE TABLE digests (
    name TEXT NOT NULL, digest TEXT NOT NULL, image TEXT NOT NULL, PRIMARY KEY (name, digest)
) WITHOUT ROWID;
CREATE INDEX digests_image ON digests (image);
CREATE TABLE manifests (
    digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, content BLOB NOT NULL, image TEXT NOT NULL
);
CREATE INDEX manifests_image ON manifests (image);
