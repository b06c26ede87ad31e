"""Words that columns of shops are called by, in several languages, for a first guess at what they hold."""

import re
import unicodedata

NAMES: dict[str, str] = {
    "request_id": """request_id request session_id session sessionid page_view_id pageview impression_id search_id
        query_id slate_id visit_id visit anfrage_id anfrage sitzung_id sitzungs_id sitzung seitenaufruf
        besuch aufruf requete_id requete seance_id seance visite page_vue solicitud_id solicitud sesion_id
        sesion peticion visita id_sesion id_seance sessie_id sessie verzoek bezoek richiesta sessione
        id_sessione sessao id_sessao sesja zapytanie mailing_id email_id user_session request_nr""",
    "timestamp": """timestamp time ts datetime date event_time created_at occurred_at event_date zeit zeitpunkt
        zeitstempel datum uhrzeit zeit_utc horodatage heure date_heure moment fecha hora fecha_hora
        marca_de_tiempo tijd tijdstip datum_tijd data ora data_ora momento data_hora czas data_czas tid
        tidspunkt time_ms unix_time""",
    "user_id": """user_id user userid uid customer_id customer customerid client_id client visitor_id visitor
        visitorid shopper_id shopper household_id member_id kunde kunden_id kunden_nr kundennr kundennummer
        nutzer nutzer_id besucher numero_client id_client client_nr utilisateur utilisateur_id cliente
        cliente_id id_cliente usuario usuario_id id_usuario klant klant_id klantnummer klantnr gebruiker
        gebruiker_id utente utente_id id_utente klient klient_id kund kund_id kunde_nr""",
    "item_id": """item_id item itemid product_id product productid sku article_id article artikel artikel_id
        artikel_nr artikelnr artikelnummer produkt produkt_id produktnr asin parent_asin gtin ean ref
        reference produit produit_id id_produit code_article code_produit id_article producto producto_id
        id_producto articulo articulo_id codigo codigo_articulo prodotto prodotto_id articolo articolo_id
        produto produto_id id_produto towar towar_id vare vare_id vara varunr offer_id listing_id""",
    "click": """click clicked is_click clicks angeklickt geklickt klick klicks clic clique clics clic_fait a_clique
        pulsado clicado clicou hizo_clic aangeklikt geklikt klik cliccato klikniecie kliknieto klikket
        klickad opened""",
    "conversion": """conversion converted purchase purchased bought is_purchase order ordered sold gekauft kauf bestellt
        bestellung achat achete commande conversion_faite compra comprado compro conversion_hecha gekocht
        aankoop besteld acquisto acquistato comprou kupione kupil zakup kjopt kob kopt redeemed""",
    "title": """title name product_name item_name product_title bezeichnung titel artikelname produktname
        produktbezeichnung artikelbezeichnung titre nom libelle designation nom_produit nombre titulo
        nombre_producto nombre_articulo naam productnaam artikelnaam omschrijving titolo nome nome_prodotto
        nome_produto nazwa nazwa_produktu navn namn description beschreibung descripcion descrizione
        descricao opis""",
    "category": """category kategorie warengruppe produktgruppe rayon categorie categoria afdeling productgroep
        department product_type product_category kategoria famille familia reparto kategori main_category
        section""",
    "brand": """brand marke hersteller marque marca merk marka merke manufacturer fabricant fabricante maerke""",
    "provider": """provider seller vendor supplier merchant anbieter handler haendler lieferant verkaufer verkaeufer
        fournisseur vendeur marchand proveedor vendedor leverancier verkoper aanbieder fornitore venditore
        dostawca sprzedawca store""",
    "price": """price preis verkaufspreis vk_preis prix prix_ttc tarif precio pvp prijs verkoopprijs prezzo preco
        cena pris unit_price""",
    "kind": """kind event event_type ereignis ereignistyp type_evenement evenement evento tipo_evento soort
        gebeurtenis actie action aktion art type tipo""",
    "position": "position rank slot pos platz rang posicion positie posizione posicao pozycja place",
}  # fmt: skip
WORDS = {name: tuple(text.split()) for name, text in NAMES.items()}


def plain_name(text: str) -> str:
    """A name without accents, capitals and signs: "Artikel-Nr." is "artikel_nr", "userSession" "user_session"."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text.strip())
    text = text.replace("ß", "ss").replace("ø", "o").replace("ł", "l").replace("æ", "ae")
    text = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return re.sub(r"[^0-9a-z]+", "_", text.lower()).strip("_")


def rank_of(name: str, ours: str) -> int | None:
    """How early in the list of words for one of our columns a name stands, None where it is not there."""
    plain = plain_name(name)
    return WORDS[ours].index(plain) if plain in WORDS[ours] else None
