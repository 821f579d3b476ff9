-- The https:// address for an s3:// address, which a browser can open.
-- s3://bucket/key becomes https://bucket.s3.amazonaws.com/key; any other text becomes NULL.
CREATE MACRO s3_to_https(path) AS
    CASE
        WHEN regexp_matches(path, '^s3://[^/]+(/.*)?$')
            THEN regexp_replace(path, '^s3://([^/]+)/?', 'https://\1.s3.amazonaws.com/')
    END
