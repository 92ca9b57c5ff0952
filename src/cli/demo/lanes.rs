//! Who carries parcels where: five lanes with their brokers, carriers and goods.

/// A way from China into one country.
#[derive(Debug)]
pub struct Lane {
    /// ISO 3166.
    pub country: &'static str,
    /// `lane` in records.
    pub name: &'static str,
    /// How declarations are filed there.
    pub entry_type: &'static str,
    /// Offset of local times.
    pub offset: &'static str,
    /// Where parcels land and customs is.
    pub gateways: &'static [&'static str],
    /// Who files the entry.
    pub brokers: &'static [&'static str],
    /// Whose system tells about customs.
    pub customs: &'static str,
    /// Who delivers.
    pub carriers: &'static [&'static str],
    /// Where they sort.
    pub depots: &'static [&'static str],
    /// Money there.
    pub currency: &'static str,
}

/// All of them.
pub const LANES: [Lane; 5] = [
    Lane {
        country: "ES",
        name: "CN-ES",
        entry_type: "h7",
        offset: "+01:00",
        gateways: &["ESMAD", "ESBCN"],
        brokers: &["iberia-customs", "puerto-brokers"],
        customs: "AEAT",
        carriers: &["correos", "seur"],
        depots: &["Getafe", "Zaragoza", "Sevilla"],
        currency: "EUR",
    },
    Lane {
        country: "FR",
        name: "CN-FR",
        entry_type: "h7",
        offset: "+01:00",
        gateways: &["FRCDG", "FRLIL"],
        brokers: &["roissy-douane"],
        customs: "DGDDI",
        carriers: &["colissimo", "mondial-relay"],
        depots: &["Gonesse", "Lyon", "Rennes"],
        currency: "EUR",
    },
    Lane {
        country: "DE",
        name: "CN-DE",
        entry_type: "h7",
        offset: "+01:00",
        gateways: &["DELEJ", "DEFRA"],
        brokers: &["zoll-partner", "hanse-verzollung"],
        customs: "Zoll",
        carriers: &["dhl", "hermes"],
        depots: &["Leipzig", "Bochum", "Augsburg"],
        currency: "EUR",
    },
    Lane {
        country: "US",
        name: "CN-US",
        entry_type: "us_11",
        offset: "-05:00",
        gateways: &["USJFK", "USLAX", "USORD"],
        brokers: &["abi-broker", "pacific-entry"],
        customs: "CBP",
        carriers: &["usps", "uniuni"],
        depots: &["Jersey City", "Ontario CA", "Elk Grove"],
        currency: "USD",
    },
    Lane {
        country: "GB",
        name: "CN-GB",
        entry_type: "h7",
        offset: "+00:00",
        gateways: &["GBLHR", "GBEMA"],
        brokers: &["channel-clearance"],
        customs: "HMRC",
        carriers: &["evri", "royal-mail"],
        depots: &["Rugby", "Warrington", "Bristol"],
        currency: "GBP",
    },
];

/// Goods that customs understands.
pub const GOODS: [(&str, &str); 8] = [
    ("Ceramic desk lamp with E27 socket, 220 V", "940521"),
    ("Men's knitted T-shirt, 100 % cotton, short sleeve", "610910"),
    ("Silicone phone case for smartphones", "392690"),
    ("Stainless steel vegetable knife, 12 cm blade", "821192"),
    ("Cordless drill driver, 18 V, without battery", "846721"),
    ("Children's wooden jigsaw puzzle, 60 pieces", "950300"),
    ("Polyester waterproof hiking backpack, 30 litres", "420292"),
    ("Glass fibre tent pole set for camping", "630690"),
];

/// Goods that it does not.
pub const WEAK: [&str; 5] = ["Gift", "Clothing", "Parts", "Sample", "Accessories"];
